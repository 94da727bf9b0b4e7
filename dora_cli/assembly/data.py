"""The examples of a recipe."""

from __future__ import annotations

from dora_cli.data import Examples, load_examples
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task


def load_split(recipe: Recipe, task: Task, split: str, *, training: bool) -> Examples:
    """Examples of one split from the recipe's source, cut to the recipe's limit."""
    data = recipe.data
    return load_examples(
        task.fields,
        data.source,
        split,
        path=data.path,
        columns=data.columns,
        labels=data.labels,
        max_samples=data.max_train_samples if training else data.max_eval_samples,
        seed=0,  # which examples are kept must not depend on the seed of the run
    )
