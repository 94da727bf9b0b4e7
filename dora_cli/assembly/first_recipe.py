"""A first recipe for a task, with the settings of the shipped recipe of DoRA that is nearest to it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.recipe.annotate import annotated
from dora_cli.recipe.shipped_recipes import shipped_recipes
from dora_cli.tasks import Task, get_task

_FIRST = "e2e/gpt2-medium"
"""The recipe that stands first among a task's: the one whose results can be compared with published ones."""


@dataclass(frozen=True)
class FirstRecipe:
    """What `first_recipe` made.

    Attributes:
        text: the recipe, a comment at every key.
        unchecked: the model, where it is not known here whether it exists and can do the task.
    """

    text: str
    unchecked: str | None = None


def default_file(task: str) -> str:
    """The name of a recipe's file where nobody gave one: ``rte.yaml`` for ``glue/rte``."""
    return f"{get_task(task).name.rpartition('/')[2]}.yaml"


def first_recipe(task_name: str, model: str | None = None, *, file: str | None = None) -> FirstRecipe:
    """Drafts a recipe; asks no network.

    Args:
        task_name: such as ``glue/rte``.
        model: what `model.name` becomes; None takes the model of the published settings.
        file: the name under which the heading speaks of the recipe.

    Raises:
        RecipeError: no such task.
        ModelError: a model that is not there or cannot do the task, as far as that can be known here.
    """
    task = get_task(task_name)
    generates = task.kind == "generation"
    recipes = {
        name: recipe
        for name, recipe in shipped_recipes().items()
        if recipe.task == task.name and recipe.method.name == "dora"
    }
    kind = None if model is None else _kind(model, generates=generates)
    name = _nearest(recipes, model, kind, generates=generates)
    found = recipes[name]
    wanted = found
    if model is not None and model != found.model.name:
        wanted = found.model_copy(update={"model": found.model.model_copy(update={"name": model, "revision": None})})
    text = annotated(wanted, _heading(wanted, task, name, found, file or default_file(task_name)))
    assert parse_recipe(text) == wanted, "a written recipe reads back"
    return FirstRecipe(text, unchecked=model if model is not None and kind is None else None)


def _nearest(recipes: Mapping[str, Recipe], model: str | None, kind: str | None, *, generates: bool) -> str:
    """The recipe made for this model, else one for such a model: built in or not, encoder-decoder or not."""

    def likeness(name: str) -> tuple[bool, ...]:
        other = recipes[name].model.name
        builtin = (model or "").startswith("builtin:") == other.startswith("builtin:")
        alike = kind is not None and kind == _kind(other, generates=generates)
        return (other == model, builtin, alike, name == _FIRST)

    return max(recipes, key=likeness)


def _kind(model: str, *, generates: bool) -> str | None:
    # loads PyTorch, which takes seconds: only where there is something to look at
    from dora_cli.models import kind_if_suitable

    return kind_if_suitable(model, generates=generates)


def _heading(recipe: Recipe, task: Task, name: str, found: Recipe, file: str) -> list[str]:
    model = recipe.model.name if recipe.model.name.isprintable() else repr(recipe.model.name)
    file = shlex.quote(file)
    values = [f"Values: those of configs/{name}.yaml, whose comments say more."]
    if recipe.model.name != found.model.name:
        values.append(
            f"They are for {found.model.name}: for another model, try other values of train.learning_rate first."
        )
    return [
        f"DoRA (Dynamic Low-Rank Adaptation) on {task.name} with {model}",
        "",
        f"    dora train {file} --dry-run        # the schedule in steps and the parameter budget; trains nothing",
        f"    dora train {file} --seeds 1,2,3    # three runs, their means and standard deviations",
        "",
        _data(recipe, task),
        *values,
        (
            "Every key is here; one that you remove takes its default. For data of your own: data.source: files, and "
            "data.path their folder."
        ),
    ]


def _data(recipe: Recipe, task: Task) -> str:
    if recipe.data.source == "builtin":
        return f"Data: generated, in place of the task's own. What selects the epoch: {task.primary}."
    evaluated = " and ".join(f"{task.splits[split]:,} ({split})" for split in task.eval_splits)
    return (
        f"Data: {task.splits['train']:,} examples to train on, {evaluated} to evaluate on. What selects the epoch: "
        f"{task.primary}."
    )
