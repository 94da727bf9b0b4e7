"""Which report a command line asks for: of runs or of an experiment of many, a page or the table for a paper."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dora_cli.errors import OutputError
from dora_cli.reports.compare.lost import losses
from dora_cli.reports.compare.markdown import markdown
from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import unfinished, verdict
from dora_cli.reports.html.compare.page import experiment_page
from dora_cli.reports.html.page import write_report
from dora_cli.runs.output_files import check_output_file, write_output
from dora_cli.runs.run_folder import RunRecords
from dora_cli.wording import plural

PAGES = (".html", ".htm")
TABLES = (".md", ".markdown")


def write(folders: Sequence[Path], output: Path, *, overwrite: bool) -> list[str]:
    """Writes the report of `folders` to `output` and returns what is to be said of it, a line each.

    Raises CheckpointError, OutputError.
    """
    experiments = [folder for folder in folders if RunRecords(folder).comparison.is_file()]
    for folder in folders:
        if folder not in experiments and RunRecords(folder).experiment.is_file():
            raise _without_result(folder)
    if experiments and len(folders) > 1:
        raise OutputError(
            f"{experiments[0]} is an experiment, which has a report of its own, but {len(folders)} folders are named. "
            "Name it alone; runs of it can be named beside others."
        )
    endings = PAGES + TABLES if experiments else PAGES
    check_output_file(output, overwrite=overwrite, example="report.html", endings=endings)
    if experiments:
        return _experiment(experiments[0], output)
    groups = write_report(folders, output)
    return [
        f"{group.name}: {group.task}, {group.model}, {group.method}, "
        f"{len(group.finished)} of {plural(len(group.runs), 'run')} finished"
        for group in groups
    ]


def _without_result(folder: Path) -> OutputError:
    """What is to be said of an experiment that has come to nothing yet."""
    file = shlex.quote(str(RunRecords(folder).experiment))
    return OutputError(
        f"{folder} is an experiment that has no result yet: of no method all runs on a task are done. Go on with it "
        f"(dora compare {file} --output {shlex.quote(str(folder))} --resume), or name runs of it, the folders in "
        f"{folder / 'tuning'} and {folder / 'runs'} that have a recipe.yaml."
    )


def _experiment(folder: Path, output: Path) -> list[str]:
    results = Results.read(folder)
    if not results.record.cells:
        raise _without_result(folder)
    table = output.suffix.lower() in TABLES
    write_output(output, markdown(results) if table else experiment_page(results, folder))
    odd = unfinished(results.record)
    return [*map(verdict, results.record.comparisons), *losses(results), *([odd] if odd else [])]
