"""Finding rank records: of a run, of the seeds of one recipe, of the newest run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.errors import CheckpointError
from dora_cli.json_text import to_json
from dora_cli.reports.curves import read_log
from dora_cli.reports.ranks.table import mean_ranks
from dora_cli.runs.reading import parse_record, read_text
from dora_cli.runs.records.ranks import validate_ranks
from dora_cli.runs.run_folder import RunRecords
from dora_cli.wording import plural


@dataclass(frozen=True)
class FoundRanks:
    """What a folder says about ranks.

    Attributes:
        title: the folder, and what the table shows of it.
        facts: lines about the run or runs, for below the title.
        record: for `dora_cli.reports.ranks.table.ranks_table`.
        json: the text of ranks.json as it is, or the mean ranks as JSON.
        run: the run; None for the mean of several.
    """

    title: str
    facts: tuple[str, ...]
    record: Mapping[str, Any]
    json: str
    run: RunRecords | None = None


def find_ranks(folder: Path) -> FoundRanks:
    """The ranks of a run folder, or the mean ranks of a folder of seeds. Raises CheckpointError."""
    run = RunRecords(folder)
    if run.ranks.is_file():
        return _of_run(run)
    seeds = run.seed_runs()
    if seeds:
        return _of_seeds(folder, seeds)
    if not folder.exists():
        raise CheckpointError(
            f"there is no folder {folder}. Name a run folder: one that dora train wrote (its --output)."
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file. Name the run folder that holds it: {folder.parent}")
    if run.log.is_file():
        name = shlex.quote(str(folder))
        raise CheckpointError(
            f"the run in {folder} has not finished: its ranks.json is written at the end. "
            f"Its budget so far: dora ranks {name} --history; "
            f"to go on with it: dora train {shlex.quote(str(run.recipe))} --output {name} --resume"
        )
    newest = newest_run(folder)
    if newest is not None:
        raise CheckpointError(f"{folder} is not a run folder, but holds runs. Name one of them; the newest is {newest}")
    raise CheckpointError(
        f"there is no ranks.json in {folder}: it is not a run folder, or the run in it has not finished. "
        "Name the folder that dora train wrote (its --output)."
    )


@dataclass(frozen=True)
class RunCurves:
    """What one run recorded over its steps.

    Attributes:
        run: its folder.
        facts: lines about it, for below its name.
        ranks: ranks.json; None while the run has not finished.
        metrics: metrics.json; likewise.
        log: the lines of log.jsonl; empty if the file is gone.
    """

    run: RunRecords
    facts: tuple[str, ...]
    ranks: Mapping[str, Any] | None
    metrics: Mapping[str, Any] | None
    log: tuple[Mapping[str, Any], ...]


def find_curves(folder: Path) -> RunCurves:
    """The records of a run over its steps, also of one that goes on or was stopped. Raises CheckpointError."""
    run = RunRecords(folder)
    if not (run.ranks.is_file() or run.log.is_file()):
        find_ranks(folder)  # says what is wrong with any other folder
        raise CheckpointError(
            f"{folder} holds several runs, and steps are those of one. Name one of them, such as "
            f"{run.seed_runs()[0].folder}"
        )
    ranks = run.read_ranks() if run.ranks.is_file() else None
    metrics = run.read_metrics() if run.metrics.is_file() else None
    log = tuple(read_log(run.log)) if run.log.is_file() else ()
    facts = (_facts(run),) if metrics else ("not finished: as far as its log goes",) if ranks is None else ()
    return RunCurves(run, facts, ranks, metrics, log)


def newest_run(root: Path) -> Path | None:
    """The folder under `root` whose ranks.json was written last; None if there is none."""
    found = [(path.stat().st_mtime_ns, path.parent) for path in root.rglob("ranks.json") if path.is_file()]
    return max(found)[1] if found else None


def _of_run(run: RunRecords) -> FoundRanks:
    text = read_text(run.ranks)
    record = parse_record(text, run.ranks)
    validate_ranks(record, run.ranks)
    facts = [_facts(run)] if run.metrics.is_file() else []
    siblings = [sibling for sibling in RunRecords(run.folder.parent).seed_runs() if sibling.ranks.is_file()]
    if len(siblings) > 1 and any(sibling.folder == run.folder for sibling in siblings):
        facts.append(f"one of {len(siblings)} seeds; their mean ranks: dora ranks {run.folder.parent}")
    return FoundRanks(str(run.folder), tuple(facts), record, text, run)


def _facts(run: RunRecords) -> str:
    metrics = run.read_metrics()
    return f"{metrics['task']}, {metrics['model']}, {metrics['method']}, seed {metrics['seed']}"


def _of_seeds(folder: Path, seeds: list[RunRecords]) -> FoundRanks:
    done = [run for run in seeds if run.ranks.is_file()]
    missing = [run.folder.name for run in seeds if not run.ranks.is_file()]
    if not done:
        raise CheckpointError(
            f"{folder} holds {', '.join(missing)}, but none of them has a ranks.json yet. Wait until one has finished."
        )
    mean = mean_ranks({run.folder.name: run.read_ranks() for run in done})
    facts = ["mean of " + ", ".join(run.folder.name for run in done)]
    if missing:
        facts.append(f"without a ranks.json yet: {', '.join(missing)}")
    return FoundRanks(f"{folder}: mean ranks of {plural(len(done), 'run')}", tuple(facts), mean, to_json(mean))
