"""``dora doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example:  dora doctor --json"


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Say what this machine has and lacks: packages, devices, caches, extras, the hub, Java. Exit code 2 if something needed is broken."""
    from dora_cli.training.doctor import examine

    found = examine()
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=2))
    else:
        from rich.console import Console

        from dora_cli.reports.doctor import print_doctor

        print_doctor(Console(highlight=False), found)
    if found["problems"]:
        raise typer.Exit(2)
