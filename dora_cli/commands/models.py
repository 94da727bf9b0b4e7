"""``dora models``."""

from __future__ import annotations

from typing import Annotated

import typer

from dora_cli.printable import say

EPILOG = "Example:  dora models --json"


def models(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """List the built-in models and the families whose projections are tested, and say what any other model needs."""
    from dora_cli.models import model_catalogue

    found = model_catalogue()
    if as_json:
        import json

        say(json.dumps(found, indent=2))
        return
    from dora_cli.reports.catalogue import print_models
    from dora_cli.reports.console import make_console

    print_models(make_console(), found)
