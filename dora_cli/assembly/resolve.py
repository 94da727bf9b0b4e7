"""A recipe and its task together: what must fit before anything is loaded."""

from __future__ import annotations

import difflib

from dora_cli.errors import CheckpointError, RecipeError
from dora_cli.files import at_home
from dora_cli.recipe import DecodeSection, LoraMethod, Recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.tasks import ClassificationTask, GenerationTask, Task, get_task


def resolve(recipe: Recipe) -> tuple[Recipe, Task]:
    """The recipe with what its task decides filled in, and the task.

    Raises:
        RecipeError: no such task, or keys that mean nothing to it; every problem at once.
    """
    task = get_task(recipe.task)
    problems = [
        *_metric(recipe, task),
        *(_generation(recipe, task) if isinstance(task, GenerationTask) else _classification(recipe, task)),
    ]
    if problems:
        raise RecipeError(problems)
    recipe = with_ranks(recipe)
    if isinstance(task, GenerationTask):
        decode = recipe.decode or DecodeSection()
        recipe = recipe.model_copy(
            update={"decode": decode.model_copy(update={"split": decode.split or task.decoded_split})}
        )
    return recipe, task


def with_ranks(recipe: Recipe) -> Recipe:
    """The recipe with the ranks of the run that ``method.ranks_from`` names in ``method.ranks``, by full path.

    Raises:
        CheckpointError: there is no such run, or it has not finished.
    """
    method = recipe.method
    if not isinstance(method, LoraMethod) or method.ranks_from is None:
        return recipe
    try:
        record = RunRecords(at_home(method.ranks_from)).read_ranks()
    except CheckpointError as error:
        raise CheckpointError(f"method.ranks_from: {error}") from error
    ranks = {layer["name"]: layer["rank"] for layer in record["layers"]}
    if not ranks:
        raise RecipeError(f"method.ranks_from: the run in {method.ranks_from} has no ranks; name one of DoRA or LoRA")
    return recipe.model_copy(update={"method": method.model_copy(update={"ranks": ranks, "ranks_from": None})})


def selecting_metric(recipe: Recipe, task: Task) -> str:
    """What makes an epoch the best one."""
    return recipe.eval.metric or task.primary


def _metric(recipe: Recipe, task: Task) -> list[str]:
    metric = recipe.eval.metric
    if metric is None or metric in task.epoch_metrics:
        return []
    near = difflib.get_close_matches(metric, task.epoch_metrics, n=1) or [
        name for name in task.epoch_metrics if name.endswith(metric)
    ]
    hint = f"; did you mean {near[0]}?" if near else "; name one of them, or remove the key"
    return [
        (
            f"eval.metric: {task.name} has no metric {metric!r} between epochs; it has "
            f"{', '.join(task.epoch_metrics)}{hint}"
        )
    ]


def _classification(recipe: Recipe, task: ClassificationTask) -> list[str]:
    problems = []
    if recipe.decode is not None:
        problems.append(f"decode: {task.name} generates no text; remove the section")
    if task.regression and recipe.train.label_smoothing:
        problems.append(
            f"train.label_smoothing: is {recipe.train.label_smoothing}, but the label of {task.name} is a number, not "
            "a class; set it to 0"
        )
    return problems


def _generation(recipe: Recipe, task: GenerationTask) -> list[str]:
    problems = []
    decode = recipe.decode or DecodeSection()
    if decode.split is not None and decode.split not in task.splits:
        problems.append(f"decode.split: {task.name} has no split {decode.split!r}; it has {', '.join(task.splits)}")
    if recipe.data.labels is not None:
        problems.append(f"data.labels: {task.name} has references, not labels; remove the key")
    if recipe.method.name == "head":
        problems.append(
            f"method.name: head trains a head alone, and the model of {task.name} has none; choose dora or lora"
        )
    if (recipe.eval.metric or "").startswith("greedy_") and not decode.epoch_samples:
        problems.append(
            f"eval.metric: {recipe.eval.metric} needs outputs after every epoch, but decode.epoch_samples "
            "is 0; raise it"
        )
    return problems
