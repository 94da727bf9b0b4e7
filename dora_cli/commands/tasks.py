"""``dora tasks``."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example:  dora tasks --json"


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """List the tasks: what they ask, how they are measured, official sizes, where their data can come from."""
    from dora_cli.tasks import task_catalogue

    found = task_catalogue()
    if as_json:
        import json

        typer.echo(json.dumps({"tasks": found}, indent=2))
        return
    from rich.console import Console

    from dora_cli.reports.catalogue import print_tasks

    print_tasks(Console(highlight=False), found)
