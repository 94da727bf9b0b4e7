"""`dora report`: runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write: a file that ends in .html.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write one self-contained HTML page about runs: results, rank maps, charts, sizes, recipes, environment."""
    from dora_cli.reports.html.page import check_output, write_report
    from dora_cli.wording import plural

    check_output(output, overwrite=overwrite)
    groups = write_report(runs, output)
    for group in groups:
        done = f"{len(group.finished)} of {plural(len(group.runs), 'run')} finished"
        typer.echo(f"{group.name}: {group.task}, {group.model}, {group.method}, {done}")
    typer.echo(f"report: {output}")
