"""What part of the tokens that a run of a recipe computes is real, and what part padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from dora_cli.data import Encoded, plan_epoch
from dora_cli.data.padding import Lengths, TokenCount, count_tokens
from dora_cli.evaluation.passes import by_length

if TYPE_CHECKING:
    from dora_cli.assembly.length import RunLength
    from dora_cli.recipe import Recipe


def tokens_of_epoch(recipe: Recipe, train: Encoded, length: RunLength, epoch: int) -> TokenCount:
    """The training tokens of epoch number `epoch`, counted from 1, over all processes."""
    return tokens_of_steps(
        recipe, train.lengths, train.sides, train.max_length, epoch, length.steps_in(epoch), length.global_batch
    )


def tokens_of_steps(
    recipe: Recipe,
    lengths: Lengths,
    sides: Sequence[Lengths],
    max_length: int,
    epoch: int,
    steps: int,
    global_batch: int,
) -> TokenCount:
    """Those of the first `steps` of an epoch.

    Args:
        lengths: what examples are grouped by, ``(N,)``.
        sides, max_length: see `count_tokens`.
        global_batch: examples of a step over all processes, whose micro-batches are the same however many there are.
    """
    groups = plan_epoch(
        lengths,
        lengths,  # in place of loss units, which do not matter here
        seed=recipe.train.seed,
        epoch=epoch,
        micro_batch=recipe.train.batch_size,
        accumulation=global_batch // recipe.train.batch_size,
        group_by_length=recipe.data.group_by_length,
    )
    return count_tokens(sides, max_length, (batch for group in islice(groups, steps) for batch in group.micro_batches))


def tokens_of_evaluation(splits: Mapping[str, Encoded], batch_size: int) -> TokenCount:
    """The tokens of one evaluation of `splits`, over all processes."""
    return sum(
        (
            count_tokens(split.sides, split.max_length, by_length(split.lengths, batch_size))
            for split in splits.values()
        ),
        TokenCount(),
    )
