"""An experiment from its file to its record: every run, every choice, and what they come to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dora_cli.atomic import write_text
from dora_cli.compare.conductor import Conductor, Progress
from dora_cli.compare.courses import CellResult, course
from dora_cli.compare.experiment import Experiment, load_experiment
from dora_cli.compare.jobs import Pool
from dora_cli.compare.outcome import comparison_record
from dora_cli.compare.plan import Plan
from dora_cli.compare.statistics import reach
from dora_cli.compare.workers.stopping import closing
from dora_cli.errors import OutputError
from dora_cli.recipe import Recipe
from dora_cli.recipe.problems import shorten
from dora_cli.runs.left_open import OPEN, read_recipe, settled
from dora_cli.runs.lock import RunLock
from dora_cli.runs.output_files import check_place
from dora_cli.runs.place import make_output
from dora_cli.runs.run_folder import RunRecords
from dora_cli.wording import plural

LOOK = "An earlier look"
"""How a note on one begins; those of before are kept."""


def compare(
    plan: Plan,
    output: Path,
    new_pool: Callable[[], Pool],
    progress: Progress,
    *,
    resume: bool = False,
    how_to_resume: str = "go on with --resume",
) -> dict[str, Any]:
    """Makes an experiment and writes everything into `output`: every run a run folder, and comparison.json.

    What is there after a kill is what it goes on from: nothing is kept but the runs themselves, and every choice is
    made anew from them.

    Args:
        new_pool: makes what the runs are made by; closed at the end.
        resume: whether `output` may hold an experiment, whose runs of the same recipes are taken as they are.

    Returns:
        The content of comparison.json.

    Raises:
        StoppedError: by a signal, once the runs under way are saved.
        DoraError: see `Conductor.run`; what is known by then is in comparison.json.
    """
    output = output.resolve()
    check_experiment(output, resume=resume)
    make_output(output)
    with RunLock(output):
        begun = _begun_with(output)
        if resume:
            before = load_experiment(RunRecords(output).experiment)
            check_unchanged(before, plan.experiment, output, begun)
        cells = (replace(cell.as_begun(output), recipe=settled(cell.recipe, begun)) for cell in plan.cells)
        plan = replace(plan, cells=tuple(cells))
        write_text(RunRecords(output).experiment, plan.file.read_text(encoding="utf-8-sig"))
        results: dict[str, CellResult] = {}
        looks = earlier_looks(output, plan)
        try:
            with closing(new_pool(), how_to_resume) as pool:
                progress.planned(plan.runs, what_seeds_show(plan))
                for note in plan.design.notes:
                    progress.note(note)
                conductor = Conductor(
                    plan.cells,
                    lambda cell, done: course(cell, plan.experiment, output, done),
                    pool,
                    progress,
                    expected=plan.runs_of,
                    how_to_resume=how_to_resume,
                    cell_done=lambda: _write(plan, output, results, looks),
                )
                results = conductor.results
                conductor.run()
        except BaseException:
            with contextlib.suppress(Exception):  # why it ended is what is told
                _write(plan, output, results, looks)
            raise
        finally:
            progress.close()
        _write(plan, output, results, looks)
    return RunRecords(output).read_comparison()


def _begun_with(output: Path) -> Recipe | None:
    """The recipe of a run that is there, None where none is: what a recipe may leave open all runs have alike."""
    begun = (path for stage in ("tuning", "runs") for path in sorted((output / stage).rglob("recipe.yaml")))
    first = next((path for path in begun if path.stat().st_size), None)  # an empty one was killed before it began
    return None if first is None else read_recipe(first)


def earlier_looks(output: Path, plan: Plan) -> list[str]:
    """What was seen of the experiment before, where it was another one then: what is tested again with more seeds until
    it shows something shows it too often.
    """
    records = RunRecords(output)
    if not records.comparison.is_file():
        return []
    before = records.read_comparison()
    looks = [note for note in before["notes"] if note.startswith(LOOK)]
    seeds, count, pool = len(before["seeds"]), before["power"]["comparisons"], sorted(before.get("pool", ()))
    now = len(plan.experiment.seeds), len(plan.design.comparisons), sorted(plan.experiment.pool)
    if before["complete"] and (seeds, count, pool) != now:
        pooled = f" pooled over {', '.join(pool)}" if pool else ""
        looks.append(
            f"{LOOK}: {plural(seeds, 'seed')} and {plural(count, 'comparison')}{pooled} were seen before. Intervals "
            "and p are those of a single look, and promise less after several"
        )
    return looks


def _write(plan: Plan, output: Path, results: Mapping[str, CellResult], looks: Sequence[str]) -> None:
    """comparison.json of what is there; none before a cell is done."""
    if results:
        record = comparison_record(plan.experiment, plan.file, plan.design, plan.cells, results, output)
        record["notes"] = [*record["notes"], *looks]
        RunRecords(output).write_comparison(record)


def check_experiment(output: Path, *, resume: bool) -> None:
    """Refuses a folder that holds something else, or an experiment that nobody asked to go on with. Writes nothing.

    Raises:
        OutputError: what it says.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output {output} is a file; name a folder")
    there = (RunRecords(output).experiment).is_file()
    if there and not resume:
        raise OutputError(
            f"--output {output} holds an experiment already; go on with it by --resume, or choose another --output"
        )
    if not there and output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
        raise OutputError(f"--output {output} is not empty and holds no experiment of dora; choose another --output")
    if resume and not there:
        raise OutputError(f"--output {output} holds no experiment to go on with; leave out --resume to start one there")
    check_place(output)


def check_unchanged(before: Experiment, now: Experiment, output: Path, begun: Recipe | None = None) -> None:
    """Refuses to go on with an experiment whose runs were made by other settings. Its seeds, grid, margin, baseline
    and pool may change, tasks and methods may be added or taken out: all runs that are there stay what they were.

    Args:
        begun: of one of these runs; what the experiment leaves open is as there, and may be named so.

    Raises:
        OutputError: names every changed key.
    """
    changed = [
        *_changes("set.", _without_open(before.set), _without_open(now.set)),
        *_settled_otherwise(now, begun),
        *_changes("tune.", _chosen_by(before), _chosen_by(now)),
        *_changes("", _of_all_runs(before), _of_all_runs(now)),
    ]
    for name in before.methods:
        if name in now.methods:
            changed += _changes(f"methods.{name}.", before.methods[name], now.methods[name])
    if changed:
        raise OutputError(
            f"--output {output} holds an experiment of other settings, so it cannot go on; give them as they were, or "
            "choose another --output\n" + "\n".join(changed)
        )


def _without_open(keys: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment sets, but for what its runs have settled: that is compared with them."""
    return {name: value for name, value in keys.items() if name != OPEN}


def _settled_otherwise(now: Experiment, begun: Recipe | None) -> list[str]:
    """Whether an experiment names another value than its runs have for what may be left open."""
    wanted = now.set.get(OPEN)
    if begun is None or wanted is None:
        return []
    return _changes("set.", {OPEN: begun.eval.held_out_by}, {OPEN: wanted})


def _of_all_runs(experiment: Experiment) -> dict[str, Any]:
    """What decides about runs beside their recipes."""
    return {"match": experiment.match, "measure": experiment.measure}


def _chosen_by(experiment: Experiment) -> dict[str, Any]:
    """What all tuning runs have in common; which values and seeds they have may change."""
    tune = experiment.tune
    return {} if tune is None else {"key": tune.key, "held_out": tune.held_out}


def _changes(place: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def said(settings: Mapping[str, Any], key: str) -> str:
        return shorten(json.dumps(settings[key])) if key in settings else "not given"

    return [
        f"{place}{key} was {said(before, key)} and is {said(now, key)}"
        for key in dict.fromkeys([*before, *now])
        if said(before, key) != said(now, key)
    ]


def default_output(file: Path) -> Path:
    """``runs/compare-rte`` for ``compare/rte.yaml``: after the file's folder and name."""
    parent = file.parent.name
    return Path("runs") / (file.stem if parent in ("", ".", "..") else f"{parent}-{file.stem}")


def what_seeds_show(plan: Plan) -> str:
    """What the seeds can show, known before the tuning: in standard deviations of the paired difference."""
    seeds, count = len(plan.experiment.seeds), len(plan.design.comparisons)
    found = reach(seeds, comparisons=count).detectable
    if found is None:
        return f"with {seeds} seed no difference can be tested"
    return f"{seeds} seeds show a true difference of {found:.2g} standard deviations of a pair with 80 % power"
