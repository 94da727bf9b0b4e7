"""``dora doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from dora_cli.printable import say

EPILOG = "Example:  dora doctor --json"


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Say what this machine has and lacks: packages, devices, threads and load, caches, extras, the hub, Java.

    Exit code 2 if something needed is broken.
    """
    from dora_cli.doctor import examine

    found = examine()
    if as_json:
        import json

        say(json.dumps(found, indent=2))
    else:
        from dora_cli.reports.console import make_console
        from dora_cli.reports.doctor import print_doctor

        print_doctor(make_console(), found)
    if found["problems"]:
        raise typer.Exit(2)
