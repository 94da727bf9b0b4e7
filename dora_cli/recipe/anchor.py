"""Local paths of a recipe."""

from __future__ import annotations

import json

from dora_cli.files import at_home, real_path
from dora_cli.recipe import Recipe, dump_recipe, parse_recipe


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with local paths made absolute, so that its run can be evaluated from any folder."""
    found: dict[str, tuple[object, object]] = {"model.name": (recipe.model.name, _model(recipe.model.name))}
    if (others := getattr(recipe.method, "models", None)) is not None:
        found["method.models"] = (list(others), [_model(name) for name in others])
    if recipe.data.path is not None:
        found["data.path"] = (recipe.data.path, str(real_path(at_home(recipe.data.path))))
    changes = [f"{key}={json.dumps(path)}" for key, (given, path) in found.items() if path != given]
    return parse_recipe(dump_recipe(recipe), overrides=changes) if changes else recipe


def _model(name: str) -> str:
    """A folder's absolute path; any other name as it is."""
    folder = at_home(name)
    return str(folder.resolve()) if not name.startswith("builtin:") and folder.is_dir() else name
