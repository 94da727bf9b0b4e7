"""A first recipe for a task, with the settings of the shipped recipe of DoRA that is nearest to it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dora_cli.assembly.resolve import resolve
from dora_cli.errors import RecipeError
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.recipe.hints import nearest
from dora_cli.recipe.methods import METHODS, about, presets_of
from dora_cli.recipe.shipped_recipes import shipped_recipes
from dora_cli.recipe.writing.annotate import annotated
from dora_cli.tasks import Task, get_task

DEFAULT_MODEL = "FacebookAI/roberta-base"
"""What most shipped recipes adapt: for a task that none is shipped for."""
AUTO_RATE = 5e-4
"""Learning rate beside ``preset: auto``: of sixteen cells of sentence classification nine were tuned to 2.5e-4, four to
7.9e-4 and three to 2.5e-3 (docs/results/allocation.md).
"""
_OURS = "auto"
"""The preset for tasks that nothing is published for."""
_FIRST = "e2e/gpt2-medium"
"""The recipe that stands first among a task's: the one whose results can be compared with published ones."""


@dataclass(frozen=True)
class FirstRecipe:
    """What `first_recipe` made.

    Attributes:
        text: the recipe, a comment at every key.
        unchecked: the model, where it is not known here whether it exists and can do the task.
        said: what was guessed of the user's own data, a line each.
    """

    text: str
    unchecked: str | None = None
    said: tuple[str, ...] = ()


def default_file(task: str) -> str:
    """The name of a recipe's file where nobody gave one: ``rte.yaml`` for ``glue/rte``."""
    return f"{get_task(task).name.rpartition('/')[2]}.yaml"


def first_recipe(
    task_name: str, model: str | None = None, method: str | None = None, *, file: str | None = None
) -> FirstRecipe:
    """Drafts a recipe; asks no network.

    Args:
        task_name: such as ``glue/rte``.
        model: what `model.name` becomes; None takes the model of the published settings.
        method: by what weights adapt; None takes the first of all, which most of the settings are for.
        file: the name under which the heading speaks of the recipe.

    Raises:
        RecipeError: no such task or method, or a method that has nothing to train in the task.
        ModelError: a model that is not there or cannot do the task, as far as that can be known here.
    """
    task = get_task(task_name)
    method = known_method(method)
    recipes = {
        name: recipe
        for name, recipe in shipped_recipes().items()
        if recipe.task == task.name and recipe.federated is None  # clients are no part of a first recipe
    }
    recipes = {name: recipe for name, recipe in recipes.items() if recipe.method.name == method} or {
        name: recipe for name, recipe in recipes.items() if recipe.method.name == known_method(None)
    }
    kind = None if model is None else _kind(model, task)
    if not recipes:
        return _plain(task, model, kind, method, file or default_file(task_name))
    name = _nearest(recipes, model, kind, task)
    found = recipes[name]
    wanted = found
    if model is not None and model != found.model.name:
        wanted = found.model_copy(update={"model": found.model.model_copy(update={"name": model, "revision": None})})
    if method != found.method.name:
        wanted = wanted.model_copy(update={"method": METHODS[method]()})
        resolve(wanted)  # whether it goes with the task
    text = annotated(wanted, _heading(wanted, task, name, found, file or default_file(task_name)))
    assert parse_recipe(text) == wanted, "a written recipe reads back"
    return FirstRecipe(text, unchecked=model if model is not None and kind is None else None)


def _plain(task: Task, model: str | None, kind: str | None, method: str, file: str) -> FirstRecipe:
    """A recipe of defaults, for a task that no recipe is shipped for."""
    if model is None:
        model, kind = DEFAULT_MODEL, task.head.kind_of(DEFAULT_MODEL)
    source = task.fields.sources[0]
    data = {"source": source, **({"path": "data"} if source not in ("hub", "builtin") else {})}
    section, train = own_values(method)
    wanted = Recipe.model_validate(
        {"task": task.name, "model": {"name": model}, "data": data, "method": section, "train": train}
    )
    heading = [
        f"{about(method).title} on {task.name} with {model if model.isprintable() else repr(model)}",
        "",
        f"    dora train {shlex.quote(file)} --dry-run    # the schedule in steps and the parameter budget",
        "",
        f"Data: your own, here in the folder {data['path']}, a file for each split." if "path" in data else "",
        said_of_values(method),
    ]
    return FirstRecipe(annotated(wanted, heading), unchecked=model if kind is None else None)


def own_values(method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections of the method and of the training for a task that nothing is published for: settings of our own, of
    a method that has some.
    """
    if _OURS not in presets_of(method):
        return {"name": method}, {}
    return {"name": method, "preset": _OURS}, {"learning_rate": AUTO_RATE}


def said_of_values(method: str) -> str:
    """Where these come from, and what to change first."""
    preset = _OURS in presets_of(method)
    source = "the method's preset, found on other tasks" if preset else "defaults, which are published for other tasks"
    return f"Values: {source}: try other values of train.learning_rate first."


def known_method(method: str | None) -> str:
    """The name of a method, the first where there is none. Raises RecipeError."""
    if method is None:
        return next(iter(METHODS))
    if method not in METHODS:
        hint = nearest(method, METHODS)
        raise RecipeError(
            f"--method {method}: there is no such method; it must be one of {', '.join(METHODS)}"
            + (f"; did you mean {hint}?" if hint else "")
        )
    return method


def _nearest(recipes: Mapping[str, Recipe], model: str | None, kind: str | None, task: Task) -> str:
    """The recipe made for this model, else one for such a model: built in or not, encoder-decoder or not."""

    def likeness(name: str) -> tuple[bool, ...]:
        other = recipes[name].model.name
        builtin = (model or "").startswith("builtin:") == other.startswith("builtin:")
        alike = kind is not None and kind == _kind(other, task)
        return (other == model, builtin, alike, name == _FIRST)

    return max(recipes, key=likeness)


def _kind(model: str, task: Task) -> str | None:
    # loads PyTorch, which takes seconds: only where there is something to look at
    return task.head.kind_of(model)


def _heading(recipe: Recipe, task: Task, name: str, found: Recipe, file: str) -> list[str]:
    model = recipe.model.name if recipe.model.name.isprintable() else repr(recipe.model.name)
    file = shlex.quote(file)
    values = [f"Values: those of configs/{name}.yaml, whose comments say more."]
    if recipe.method.name != found.method.name:
        values = [
            f"Values: those of configs/{name}.yaml; of the method its defaults, since none are published for it here.",
            f"They were found with {found.method.name}: try other values of train.learning_rate first.",
        ]
    if recipe.model.name != found.model.name:
        values.append(
            f"They are for {found.model.name}: for another model, try other values of train.learning_rate first."
        )
    return [
        f"{about(recipe.method.name).title} on {task.name} with {model}",
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
