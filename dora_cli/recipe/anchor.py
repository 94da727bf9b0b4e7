"""Local paths of a recipe."""

from __future__ import annotations

import json

from dora_cli.files import at_home, real_path
from dora_cli.recipe import Recipe, dump_recipe, parse_recipe


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with local paths made absolute, so that its run can be evaluated from any folder."""
    found = {}
    model = at_home(recipe.model.name)
    if not recipe.model.name.startswith("builtin:") and model.is_dir():
        found["model.name"] = (recipe.model.name, str(model.resolve()))
    if recipe.data.path is not None:
        found["data.path"] = (recipe.data.path, str(real_path(at_home(recipe.data.path))))
    changes = [f"{key}={json.dumps(path)}" for key, (given, path) in found.items() if path != given]
    return parse_recipe(dump_recipe(recipe), overrides=changes) if changes else recipe
