"""A recipe and its task together: what must fit before anything is loaded."""

from __future__ import annotations

import difflib

from dora_cli.errors import CheckpointError, RecipeError
from dora_cli.files import at_home
from dora_cli.recipe import Recipe
from dora_cli.recipe.federated import ALPHA, RESIDUAL
from dora_cli.runs.run_folder import RunRecords
from dora_cli.tasks import Task, get_task


def resolve(recipe: Recipe) -> tuple[Recipe, Task]:
    """The recipe with what its task decides filled in, and the task.

    Raises:
        RecipeError: no such task, or keys that mean nothing to it; every problem at once.
    """
    task = get_task(recipe.task)
    problems = [*_metric(recipe, task), *task.problems(recipe)]
    if problems:
        raise RecipeError(problems)
    recipe, task = task.settle(with_rounds(with_ranks(recipe)))
    if problems := _metric(recipe, task):  # data may have said that it is none of the task's
        raise RecipeError(problems)
    return recipe, task


def with_ranks(recipe: Recipe) -> Recipe:
    """The recipe with the ranks of the run that ``method.ranks_from`` names in ``method.ranks``, by full path.

    Raises:
        CheckpointError: there is no such run, or it has not finished.
    """
    method = recipe.method
    source = getattr(method, "ranks_from", None)
    if source is None:
        return recipe
    try:
        record = RunRecords(at_home(source)).read_ranks()
    except CheckpointError as error:
        raise CheckpointError(f"method.ranks_from: {error}") from error
    ranks = {layer["name"]: layer["rank"] for layer in record["layers"]}
    if not ranks:
        raise RecipeError(f"method.ranks_from: the run in {source} has no ranks; name one of DoRA or LoRA")
    return recipe.model_copy(update={"method": method.model_copy(update={"ranks": ranks, "ranks_from": None})})


def with_rounds(recipe: Recipe) -> Recipe:
    """A federated recipe with everything that its section leaves open, and its length in ``train.max_steps``."""
    federated = recipe.federated
    if federated is None:
        return recipe
    settled: dict[str, float] = {}
    if federated.split == "dirichlet" and federated.alpha is None:
        settled["alpha"] = ALPHA
    if federated.aggregation == "lora-fair" and federated.residual is None:
        settled["residual"] = RESIDUAL
    return recipe.model_copy(
        update={
            "federated": federated.model_copy(update=settled),
            "train": recipe.train.model_copy(update={"max_steps": federated.steps}),
        }
    )


def selecting_metric(recipe: Recipe, task: Task) -> str:
    """What makes an epoch the best one."""
    return recipe.eval.metric or task.primary


def _metric(recipe: Recipe, task: Task) -> list[str]:
    metric = recipe.eval.metric
    known = task.epoch_metrics if recipe.eval.held_out is None else task.held_out_metrics
    if metric is None or metric in known:
        return []
    near = difflib.get_close_matches(metric, known, n=1) or [name for name in known if name.endswith(metric)]
    hint = f"; did you mean {near[0]}?" if near else "; name one of them, or remove the key"
    return [(f"eval.metric: {task.name} has no metric {metric!r} between epochs; it has {', '.join(known)}{hint}")]
