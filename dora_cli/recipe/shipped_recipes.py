"""The recipes that come with the program: those of configs/, which is also in the installed package."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from dora_cli.errors import RecipeError
from dora_cli.recipe.load import load_recipe
from dora_cli.recipe.schema import Recipe

EXPERIMENTS = "compare"
"""The folder of the experiments that come with the program."""
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
    folder = _folder()
    return {path.relative_to(folder).with_suffix("").as_posix(): load_recipe(path) for path in _recipes_in(folder)}


def find_recipe(path: Path) -> Path:
    """The file of a recipe: `path` itself where there is one, else that of the shipped recipe of this name.

    Raises:
        RecipeError: neither is there; names the nearest ones. A path that ends like a file's is left to the reader.
    """
    if path.suffix or path.is_absolute() or (path.exists() and not path.is_dir()):
        return path
    folder = _folder()
    name = path.as_posix()
    names = [found.relative_to(folder).with_suffix("").as_posix() for found in _recipes_in(folder)]
    if name in names:
        return folder / f"{name}.yaml"
    if path.is_dir():  # which its reader refuses
        return path
    near = difflib.get_close_matches(name, names, n=3) or [other for other in names if other.endswith(f"/{name}")]
    raise RecipeError(
        f"{name}: there is no such recipe file, and no recipe of this name comes with dora; "
        + (f"nearest: {', '.join(near)}" if near else f"there are {', '.join(names)}")
    )


def find_experiment(path: Path) -> Path:
    """The file of an experiment: `path` itself, or that of the one that comes with the program under this name, such as
    ``demo`` or ``compare/demo``; a name that none has is left to the reader.
    """
    if path.suffix or path.is_absolute() or path.exists():
        return path
    known = _folder() / EXPERIMENTS / f"{path.name}.yaml"
    return known if path.parent in (Path(), Path(EXPERIMENTS)) and known.is_file() else path


def _recipes_in(folder: Path) -> list[Path]:
    """Their files; those of `EXPERIMENTS` are no recipes."""
    return [path for path in sorted(folder.rglob("*.yaml")) if path.parent.name != EXPERIMENTS]


def _folder() -> Path:
    folder = next((place for place in _PLACES if place.is_dir()), None)
    if folder is None:
        raise RecipeError(f"the recipes that come with dora are not in {_PLACES[0]}; install dora-cli again")
    return folder
