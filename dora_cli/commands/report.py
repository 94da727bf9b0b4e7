"""`dora report`: runs, or an experiment of many, as one page or as a table for a paper."""

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
            help=(
                "Folders of runs, finished or not, or parents of runs with --seeds. Seeds of one recipe are averaged. "
                "Or, alone, the folder of an experiment that dora compare made."
            ),
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=(
                "What to write: a new file that ends in .html for a page, or of an experiment in .md for tables as a "
                "paper wants them; - is the page on stdout."
            ),
            show_default=False,
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
) -> None:
    """Write one self-contained HTML page about runs: results, rank maps, charts, sizes, recipes, environment."""
    from dora_cli.reports.outputs import write
    from dora_cli.runs.output_files import is_stdout

    to_stdout = is_stdout(output)
    for line in write(runs, output, overwrite=overwrite):
        say(line, err=to_stdout)
    say(f"report: {'stdout' if to_stdout else output}", err=to_stdout)
