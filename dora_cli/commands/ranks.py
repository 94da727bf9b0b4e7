"""`dora ranks`: the final ranks of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dora_cli.errors import CheckpointError

RUNS = Path("runs")
EPILOG = "Example:  dora ranks runs/demo-sst2"


def ranks(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="A run folder, or the parent folder of a run with --seeds (shows mean ranks). Without it, the newest run under runs/.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print ranks.json as it is (of several seeds: the mean ranks as JSON).")] = False,
) -> None:
    """Show how the budget was distributed: the rank of every projection, blocks down, projections across."""
    from rich.console import Console

    from dora_cli.reports.ranks import header, render
    from dora_cli.reports.runs import find_ranks, newest_run

    if folder is None:
        folder = newest_run(RUNS)
        if folder is None:
            raise CheckpointError(f"there is no run with a ranks.json under {RUNS}/ in {Path.cwd()}. Name a run folder: dora ranks DIR")
    found = find_ranks(folder)
    if as_json:
        typer.echo(found.json, nl=False)
        return
    console = Console(highlight=False)
    console.print(header(found.title, found.facts))
    render(found.record, console)
