"""``dora data``."""

from __future__ import annotations

from typing import Annotated

import typer

from dora_cli.commands.train import Changes, RecipeFile
from dora_cli.printable import say

EPILOG = "Example:  dora data configs/demo/sst2.yaml"


def data(
    recipe: RecipeFile,
    set_: Changes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what the model of a recipe will see: counts, label balance, lengths in tokens and how many are cut, empty
    and double examples, what train and dev have in common, a few examples as tokens. Trains nothing.
    """
    from dora_cli.assembly.look import look_at_data
    from dora_cli.json_text import to_json
    from dora_cli.recipe import load_recipe
    from dora_cli.recipe.shipped_recipes import find_recipe

    found = look_at_data(
        load_recipe(find_recipe(recipe), set_ or [], note=lambda message: say(f"dora: note: {message}", err=True))
    )
    if as_json:
        say(to_json(found), end="")
        return
    from dora_cli.reports.console import make_console
    from dora_cli.reports.data import print_data

    print_data(make_console(), found)
