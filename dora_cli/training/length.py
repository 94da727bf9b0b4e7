"""How long a run is, in optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass

from dora_cli.data import steps_per_epoch
from dora_cli.recipe import Recipe


@dataclass(frozen=True)
class RunLength:
    """Derived from the data, never asked of the user.

    Attributes:
        examples: training examples per epoch.
        global_batch: examples per optimiser step, over micro-batches and processes.
        steps_per_epoch: the last step of an epoch may hold fewer examples; none is dropped.
        total_steps: `T`, attempted optimiser steps.
        epochs: epochs begun; the last one is cut short where ``train.max_steps`` ends the run.
    """

    examples: int
    global_batch: int
    steps_per_epoch: int
    total_steps: int
    epochs: int

    @classmethod
    def of(cls, recipe: Recipe, examples: int, processes: int) -> RunLength:
        train = recipe.train
        global_batch = train.batch_size * train.gradient_accumulation * processes
        per_epoch = steps_per_epoch(examples, global_batch)
        total = per_epoch * train.epochs if train.max_steps is None else train.max_steps
        return cls(examples, global_batch, per_epoch, total, -(-total // per_epoch))


def lr_warmup_steps(recipe: Recipe, total_steps: int) -> int:
    """``train.lr_warmup_steps`` if given, else ``floor(lr_warmup_fraction * T)`` with the fraction read as a decimal."""
    from fractions import Fraction

    if recipe.train.lr_warmup_steps is not None:
        return recipe.train.lr_warmup_steps
    return int(Fraction(str(recipe.train.lr_warmup_fraction)) * total_steps)
