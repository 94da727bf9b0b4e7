"""The examples of a recipe: read, and encoded to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dora_cli.assembly.build import AdaptedModel
from dora_cli.data import Encoded, Examples, forget_table
from dora_cli.errors import DataError
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task, read_split
from dora_cli.wording import plural

HELD_OUT = "train-held-out"
"""Name of the part of the training split that ``eval.held_out`` keeps from training, beside the names of splits."""


@dataclass(frozen=True)
class RunData:
    """The examples of a run.

    Attributes:
        training: what it learns from.
        evaluated: those of each split that it evaluates.
        held_out: what is kept from the training split for the method; None where it asks for none.
        read: how many examples of the training split there were before any were kept from it.
    """

    training: Examples
    evaluated: Mapping[str, Examples]
    held_out: Examples | None
    read: int

    @property
    def by_split(self) -> dict[str, Examples]:
        """All of them, the training split first."""
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        return {"train": self.training, **held_out, **self.evaluated}


def load_data(recipe: Recipe, task: Task, *, held_out: float = 0.0) -> RunData:
    """All examples of a run of `recipe` (resolved).

    Args:
        held_out: share of the training split that is kept from it for the method.
    """
    try:
        training, held = _training(recipe, task, for_method=held_out)
        evaluated = {name: _evaluated(recipe, task, name, held) for name in evaluated_splits(recipe, task)}
    finally:
        forget_table()
    read = len(training) + (0 if held is None else len(held))
    if not held_out:
        return RunData(_loose(training), evaluated, None, read)
    kept, for_method = _parted(training, held_out, f"method {recipe.method.name} asks for")
    return RunData(_loose(kept), evaluated, _loose(for_method), read)


def _loose(examples: Examples) -> Examples:
    """Without the groups that are used for parting alone."""
    return replace(examples, groups=None)


def _training(recipe: Recipe, task: Task, *, for_method: float = 0.0) -> tuple[Examples, Examples | None]:
    """What there is to learn from, also for a method's own share, and what ``eval.held_out`` keeps from it."""
    tied = bool(recipe.eval.held_out or for_method) and recipe.eval.held_out_by != "rows"
    training = read_split(recipe, task.fields, "train", training=True, tied=tied)
    if recipe.eval.held_out is None:
        return training, None
    return _parted(training, recipe.eval.held_out, "eval.held_out says")


def _evaluated(recipe: Recipe, task: Task, split: str, held: Examples | None) -> Examples:
    """The examples of one split that are evaluated, at most as many as ``data.max_eval_samples`` says."""
    if split != HELD_OUT:
        return load_split(recipe, task, split, training=False)
    assert held is not None, "eval.held_out is set"
    held, limit = replace(_loose(held), notes=()), recipe.data.max_eval_samples  # the training split says them
    if limit is None:
        return held
    return (held.sample_sources if task.fields.by_source(HELD_OUT) else held.sample)(limit, seed=0)


def evaluated_splits(recipe: Recipe, task: Task) -> tuple[str, ...]:
    """What an evaluation of `recipe` (resolved) reads."""
    return task.evaluated_splits(recipe) if recipe.eval.held_out is None else (HELD_OUT,)


def load_evaluated(recipe: Recipe, task: Task, split: str) -> Examples:
    """The examples of one split that are evaluated; `HELD_OUT` is what ``eval.held_out`` keeps from training."""
    held = _training(recipe, task)[1] if split == HELD_OUT else None
    return _evaluated(recipe, task, split, held)


def _parted(training: Examples, share: float, who: str) -> tuple[Examples, Examples]:
    kept, held = training.parted(share)
    if len(held):
        return kept, held
    count = f"split train: {plural(len(training), 'example')}"
    if training.groups is not None and len(set(training.groups)) < len(training):
        raise DataError(
            f"{count} share too many texts to hold {share:g} of them out, which {who}, with none on both sides; give "
            "more, or part them by rows: eval.held_out_by: rows"
        )
    raise DataError(f"{count} are too few to hold {share:g} of them out, which {who}; give more")


def load_split(recipe: Recipe, task: Task, split: str, *, training: bool) -> Examples:
    """Examples of one split from the recipe's source, cut to the recipe's limit."""
    return read_split(recipe, task.fields, split, training=training)


def encode_split(recipe: Recipe, task: Task, examples: Examples, adapted: AdaptedModel) -> Encoded:
    """Examples with what is learned or scored, as `adapted` reads them."""
    encoded = task.encode(examples, adapted.tokenizer, recipe.data.max_length, adapted.layout)
    return encoded.padded_to(adapted.pad_multiple)
