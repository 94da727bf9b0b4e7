"""``dora methods``."""

from __future__ import annotations

from typing import Annotated

import typer

from dora_cli.printable import say

EPILOG = "Example:  dora methods --json"


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """List the methods: what they do, their paper, what they adapt, whether they merge or become plain LoRA."""
    from dora_cli.recipe.methods import method_catalogue

    found = method_catalogue()
    if as_json:
        import json

        say(json.dumps({"methods": found}, indent=2))
        return
    from dora_cli.reports.catalogue import print_methods
    from dora_cli.reports.console import make_console

    print_methods(make_console(), found)
