"""What part of the tokens that a run of a recipe computes is real, and what part padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from dora_cli.data import Encoded, plan_epoch
from dora_cli.data.batches import Indices
from dora_cli.data.cuts import Cuts, cut_batches
from dora_cli.data.packed import Packing
from dora_cli.data.padding import Lengths, TokenCount, count_tokens
from dora_cli.evaluation.passes import by_length

if TYPE_CHECKING:
    from dora_cli.assembly.length import RunLength
    from dora_cli.recipe import Recipe


def tokens_of_epoch(
    recipe: Recipe, train: Encoded, length: RunLength, epoch: int, cuts: Cuts, packing: Packing | None = None
) -> TokenCount:
    """The training tokens of epoch number `epoch`, counted from 1, over all processes.

    Args:
        cuts: how padded batches are cut.
        packing: how batches are put into rows; None where they are padded.
    """
    if packing is not None:
        return packing.count(train.sides[0], batches_of_epoch(recipe, train.lengths, length, epoch))
    processes = length.global_batch // (recipe.train.batch_size * recipe.train.gradient_accumulation)
    together = processes if cuts.dealt else 1
    whole = batches_of_epoch(recipe, train.lengths, length, epoch, together)
    shares = (share for rows in whole for share in cuts.shares(train, rows, together) if len(share))
    batches = cut_batches(train, shares, cuts)
    return count_tokens(train.sides, batches, max_length=train.max_length, multiple=train.pad_multiple)


def batches_of_epoch(
    recipe: Recipe, lengths: Lengths, length: RunLength, epoch: int, together: int = 1
) -> Iterator[Indices]:
    """The micro-batches of epoch number `epoch`, counted from 1, uncut: of all processes, however many there are.

    Args:
        lengths: tokens of each example, ``(N,)``.
        together: so many of them are taken as one.
    """
    groups = plan_epoch(
        lengths,
        lengths,  # in place of loss units, which do not matter here
        seed=recipe.train.seed,
        epoch=epoch,
        micro_batch=recipe.train.batch_size * together,
        accumulation=length.global_batch // (recipe.train.batch_size * together),
        group_by_length=recipe.data.group_by_length,
    )
    return (batch for group in islice(groups, length.steps_in(epoch)) for batch in group.micro_batches)


def tokens_of_evaluation(splits: Mapping[str, Encoded], batch_size: int) -> TokenCount:
    """The tokens of one evaluation of `splits`, over all processes."""
    return sum(
        (
            count_tokens(
                split.sides,
                by_length(split.lengths, batch_size),
                max_length=split.max_length,
                multiple=split.pad_multiple,
            )
            for split in splits.values()
        ),
        TokenCount(),
    )
