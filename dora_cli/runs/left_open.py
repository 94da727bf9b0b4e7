"""What a recipe may leave open, which a run settles when it begins and keeps when it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dora_cli.recipe import Recipe, load_recipe

OPEN = "eval.held_out_by"
"""The key that is left open where it is null."""
HELD_OUT_BY: Literal["rows"] = "rows"
"""How runs of versions without that key held out."""


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe.yaml of a run, settled whatever version wrote it: a run of an older one stays what it was.

    Raises:
        RecipeError: it is no recipe, or `overrides` do not fit it.
    """
    return _with(load_recipe(path, overrides), HELD_OUT_BY)


def settled(recipe: Recipe, before: Recipe | None = None) -> Recipe:
    """`recipe` with what it leaves open.

    Args:
        before: that of the run that goes on, or of others beside which this one is to stand; None where there are none.
    """
    if before is None:
        return _with(recipe, "text")
    return scaled_as(_with(recipe, before.eval.held_out_by), before)


def scaled_as(recipe: Recipe, before: Recipe) -> Recipe:
    """`recipe`, where it leaves the scale of a regression's numbers open, with the one that a run of it has found
    `before`: older ones counted what ``eval.held_out`` keeps from training too.
    """
    scale = before.data.scale
    if scale is None or recipe.data.scale is not None or recipe.task != before.task:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"scale": scale})})


def _with(recipe: Recipe, held_out_by: Literal["text", "rows"] | None) -> Recipe:
    if recipe.eval.held_out_by is not None:
        return recipe
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"held_out_by": held_out_by})})
