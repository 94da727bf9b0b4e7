"""The examples of a recipe: read, and encoded to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dora_cli.assembly.build import AdaptedModel
from dora_cli.data import Encoded, Examples, forget_table
from dora_cli.errors import DataError
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task, read_split
from dora_cli.wording import plural


@dataclass(frozen=True)
class RunData:
    """The examples of a run.

    Attributes:
        training: what it learns from.
        evaluated: those of each split that it evaluates.
        held_out: what is kept from the training split for the method; None where it asks for none.
    """

    training: Examples
    evaluated: Mapping[str, Examples]
    held_out: Examples | None = None

    @property
    def by_split(self) -> dict[str, Examples]:
        """All of them, the training split first."""
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        return {"train": self.training, **held_out, **self.evaluated}


def load_data(recipe: Recipe, task: Task, *, held_out: float = 0.0) -> RunData:
    """All examples of a run of `recipe` (resolved).

    Args:
        held_out: share of the training split that is kept from it.
    """
    try:
        training = load_split(recipe, task, "train", training=True)
        evaluated = {split: load_split(recipe, task, split, training=False) for split in task.evaluated_splits(recipe)}
    finally:
        forget_table()
    if not held_out:
        return RunData(training, evaluated)
    kept, held = training.parted(held_out)
    if not len(held):
        raise DataError(
            f"split train: {plural(len(training), 'example')} are too few to hold {held_out:g} of them out, which "
            f"method {recipe.method.name} asks for; give more"
        )
    return RunData(kept, evaluated, held)


def load_split(recipe: Recipe, task: Task, split: str, *, training: bool) -> Examples:
    """Examples of one split from the recipe's source, cut to the recipe's limit."""
    return read_split(recipe, task.fields, split, training=training)


def encode_training(recipe: Recipe, task: Task, training: Examples, adapted: AdaptedModel) -> Encoded:
    """The training examples as `adapted` reads them."""
    return task.encode(training, adapted.tokenizer, recipe.data.max_length, adapted.layout)
