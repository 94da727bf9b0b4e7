"""The examples of a recipe: read, and encoded to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dora_cli.assembly.build import AdaptedModel
from dora_cli.data import Encoded, Examples, load_examples
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task


@dataclass(frozen=True)
class RunData:
    """The examples that a run learns from, and those of each split that it evaluates."""

    training: Examples
    evaluated: Mapping[str, Examples]

    @property
    def by_split(self) -> dict[str, Examples]:
        """All of them, the training split first."""
        return {"train": self.training, **self.evaluated}


def load_data(recipe: Recipe, task: Task) -> RunData:
    """All examples of a run of `recipe` (resolved)."""
    training = load_split(recipe, task, "train", training=True)
    evaluated = {split: load_split(recipe, task, split, training=False) for split in task.evaluated_splits(recipe)}
    return RunData(training, evaluated)


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
        validation=data.validation,
        skip=data.invalid == "skip",
        max_samples=data.max_train_samples if training else data.max_eval_samples,
        seed=0,  # which examples are kept must not depend on the seed of the run
    )


def encode_training(recipe: Recipe, task: Task, training: Examples, adapted: AdaptedModel) -> Encoded:
    """The training examples as `adapted` reads them."""
    return task.encode(training, adapted.tokenizer, recipe.data.max_length, adapted.layout)
