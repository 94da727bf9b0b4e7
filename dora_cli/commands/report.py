"""`dora report`: runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dora_cli.printable import say

EPILOG = "Example:  dora report runs/demo-sst2 --output report.html"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, finished or not, or parents of runs with --seeds. Seeds of one recipe are averaged.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The page to write: a new file that ends in .html, or - for stdout.",
            show_default=False,
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
) -> None:
    """Write one self-contained HTML page about runs: results, rank maps, charts, sizes, recipes, environment."""
    from dora_cli.reports.html.page import check_output, write_report
    from dora_cli.runs.output_files import is_stdout
    from dora_cli.wording import plural

    check_output(output, overwrite=overwrite)
    to_stdout = is_stdout(output)
    groups = write_report(runs, output)
    for group in groups:
        done = f"{len(group.finished)} of {plural(len(group.runs), 'run')} finished"
        say(f"{group.name}: {group.task}, {group.model}, {group.method}, {done}", err=to_stdout)
    say(f"report: {'stdout' if to_stdout else output}", err=to_stdout)
