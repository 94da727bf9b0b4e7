"""The keys of AdaLoRA, what holds between them, and their defaults, which are published ones."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, NonNegative, Positive, Section, Targets
from dora_cli.recipe.rules import PRUNING


class AdaloraMethod(Section):
    """AdaLoRA (Zhang et al. 2023): triplets of an approximate singular value decomposition, masked by importance.

    Attributes:
        name: which method: ``adalora`` adapts every projection and masks triplets by importance until the budget is
            met.
        rank: average final rank per projection.
        start_rank: rank of every projection at the start; None is ``ceil(1.5 * rank)``.
        alpha: the update is scaled by ``alpha / start rank``.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        warmup_fraction: share of the steps before the first mask.
        final_fraction: share of the steps after the ranks are frozen.
        prune_interval: optimiser steps between two masks, at the multiples of this number.
        orthogonality_weight: weight of the penalty that keeps the factors' vectors orthonormal; 0 turns it off.
        orthogonality_scale: ``published``, the mean of the norms (as in the authors' code), or ``paper``, the sum of
            their squares.
        sensitivity_beta: decay of the moving average of every entry's sensitivity.
        uncertainty_beta: decay of the moving average of its deviation from that.
        compact: whether masked triplets leave memory, and with it the penalty, at the freeze.
    """

    name: ForRun[Literal["adalora"]] = "adalora"
    rank: ForRun[Count] = 8
    start_rank: ForRun[Count | None] = None
    alpha: ForRun[Positive] = 16.0
    dropout: ForRun[FractionBelowOne] = 0.0
    targets: ForRun[Targets] = ("attention", "ffn")
    warmup_fraction: ForRun[FractionBelowOne] = 0.15
    final_fraction: ForRun[FractionBelowOne] = 0.5
    prune_interval: ForRun[Count] = 10
    orthogonality_weight: ForRun[NonNegative] = 0.1
    orthogonality_scale: ForRun[Literal["published", "paper"]] = "published"
    sensitivity_beta: ForRun[FractionBelowOne] = 0.85
    uncertainty_beta: ForRun[FractionBelowOne] = 0.85
    compact: ForRun[bool] = True


SECTION = AdaloraMethod
RULES = PRUNING


def _scale(section: AdaloraMethod, start_rank: int, rank: int) -> float:
    """By the start rank, also of what is left at the end."""
    return section.alpha / (start_rank + 1e-5)


ABOUT = About(
    title="AdaLoRA, adaptive budget allocation",
    summary="masks triplets of an approximate singular value decomposition by importance until a budget is met",
    paper="Zhang et al. 2023, arXiv 2303.10512",
    adapts="attention and FFN projections",
    ranks="pruned",
    mergeable=True,
    lora=True,
    card="""\
Trained with **AdaLoRA** (Zhang et al., ICLR 2023, [arXiv 2303.10512](https://arxiv.org/abs/2303.10512)): the update of
every adapted projection is kept near a singular value decomposition, its triplets of the least importance (sensitivity
times uncertainty of their entries) are masked while training goes on until the budget is met, then the ranks are frozen
and the rest is fine-tuned.""",
    tags=("adalora",),
    scale=_scale,
)
