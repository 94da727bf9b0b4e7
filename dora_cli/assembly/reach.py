"""Whether a recipe's model and data are within reach: looked up before PyTorch, which takes seconds, is loaded."""

from __future__ import annotations

from dora_cli.assembly.resolve import resolve
from dora_cli.data.sources import hub
from dora_cli.errors import DataError, DoraError, ModelError
from dora_cli.models import source
from dora_cli.recipe import Recipe


def check_reach(recipe: Recipe) -> None:
    """Refuses a recipe whose model or data are neither here nor in a cache nor on a hub that answers.

    What is here is found again when it is read, which says what is wrong with it.

    Raises:
        RecipeError: as `resolve`.
        ModelError, DataError: what reading would raise.
        DoraError: both, in one message.
    """
    recipe, task = resolve(recipe)
    missing: list[DoraError] = []
    try:
        if recipe.data.source == "hub":
            hub.check_reach(task.fields, "train")
    except DataError as error:
        missing.append(error)
    try:
        source.check_reach(recipe.model.name, recipe.model.revision)
    except ModelError as error:
        missing.append(error)
    for name in getattr(recipe.method, "models", None) or ():
        try:
            with source.of_reference(name):
                source.check_reach(name)
        except ModelError as error:
            missing.append(error)
    if len(missing) > 1:
        raise DoraError("\n".join(map(str, missing))) from missing[0]
    if missing:
        raise missing[0]
