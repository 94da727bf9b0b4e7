"""``dora tasks``."""

from __future__ import annotations

from typing import Annotated

import typer

from dora_cli.printable import say

EPILOG = "Example:  dora tasks --json"


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """List the tasks: what they ask, how they are measured, official sizes, where their data can come from."""
    from dora_cli.tasks import task_catalogue

    found = task_catalogue()
    if as_json:
        import json

        say(json.dumps({"tasks": found}, indent=2))
        return
    from dora_cli.reports.catalogue import print_tasks
    from dora_cli.reports.console import make_console

    print_tasks(make_console(), found)
