"""The recipes that come with the program: those of configs/, which is also in the installed package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dora_cli.errors import RecipeError
from dora_cli.recipe.load import load_recipe
from dora_cli.recipe.schema import Recipe

_PLACES = (
    Path(__file__).parent / "shipped",  # a link to configs/ in the repository, a copy of it in an installed package
    Path(__file__).parents[2] / "configs",  # a checkout on a system without links
)


@lru_cache(maxsize=1)
def shipped_recipes() -> dict[str, Recipe]:
    """Every recipe by its path below configs/ without the ending, such as ``glue/rte``, sorted.

    Raises:
        RecipeError: they are not there.
    """
    folder = next((place for place in _PLACES if place.is_dir()), None)
    if folder is None:
        raise RecipeError(f"the recipes that come with dora are not in {_PLACES[0]}; install dora-cli again")
    return {
        path.relative_to(folder).with_suffix("").as_posix(): load_recipe(path)
        for path in sorted(folder.rglob("*.yaml"))
    }
