"""``dora models``."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = "Example:  dora models --json"


def models(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """List the built-in models and the families whose projections are tested, and say what any other model needs."""
    from dora_cli.models import model_catalogue

    found = model_catalogue()
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console

    from dora_cli.reports.catalogue import print_models

    print_models(Console(highlight=False), found)
