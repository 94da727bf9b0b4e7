"""The keys of DoRA, what holds between them, and their defaults, which are the published ones."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, CountOrZero, FractionBelowOne, NonNegative, Positive, Section, Targets
from dora_cli.recipe.methods.lora import noise_note
from dora_cli.recipe.rules import PRUNING


class DoraMethod(Section):
    """DoRA, Dynamic Low-Rank Adaptation (Mao et al. 2024).

    Attributes:
        name: which method: ``dora`` adapts every projection and prunes ranks to the budget.
        rank: average final rank per projection.
        start_rank: rank of every projection at the start; None is ``ceil(1.5 * rank)``.
        alpha: the update is scaled by ``alpha / start rank``.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        ema_beta: decay of the moving average of the scores.
        warmup_fraction: share of the steps before pruning starts.
        final_fraction: share of the steps after the ranks are frozen.
        prune_interval: optimiser steps between two pruning events.
        curve: how the budget falls: slowly then fast (``published``), or fast then slowly (``adalora``).
        dem_weight: weight of the regulariser (DEM); 0 turns it off.
        dem_scale: ``published`` (as in the authors' code) or ``paper`` (twice that).
        dem_until: whether the regulariser stops at the freeze or runs to the end.
        compact: whether pruned components leave memory at the freeze.
        flatness: sigma of the noise on the adapted weights in training (Flat-LoRA); 0 is none.
    """

    name: ForRun[Literal["dora"]] = "dora"
    rank: ForRun[Count] = 8
    start_rank: ForRun[Count | None] = None
    start: ForRun[Literal["published", "unit", "lora"]] = "published"
    gates: ForRun[Literal["trained", "fixed"]] = "trained"
    alpha: ForRun[Positive] = 8.0
    scaling: ForRun[Literal["start", "root", "final"]] = "start"
    learning_rate_ratio: ForRun[Positive] = 1.0
    gate_rate: ForRun[Positive] = 1.0
    dropout: ForRun[FractionBelowOne] = 0.1
    targets: ForRun[Targets] = ("attention", "ffn")
    score: ForRun[Literal["published", "norm", "output", "taylor", "fisher", "kfac"]] = "published"
    ema_beta: ForRun[FractionBelowOne] = 0.9
    rotate: ForRun[Literal["none", "weight", "input"]] = "none"
    budget: ForRun[Literal["components", "parameters"]] = "components"
    min_rank: ForRun[CountOrZero] = 0
    max_rank: ForRun[Count | None] = None
    warmup_fraction: ForRun[FractionBelowOne] = 0.15
    final_fraction: ForRun[FractionBelowOne] = 0.5
    prune_interval: ForRun[Count] = 10
    events: ForRun[Count | None] = None
    curve: ForRun[Literal["published", "adalora"]] = "published"
    dem_weight: ForRun[NonNegative] = 0.5
    dem_scale: ForRun[Literal["published", "paper"]] = "published"
    dem_until: ForRun[Literal["freeze", "end"]] = "freeze"
    compact: ForRun[bool] = True
    flatness: ForRun[NonNegative] = 0.0


SECTION = DoraMethod
RULES = PRUNING


def _scale(section: DoraMethod, start_rank: int, rank: int) -> float:
    """By the start rank, also of what is left at the end."""
    return section.alpha / start_rank


def _notes(section: DoraMethod) -> list[str]:
    return [noise_note(section.flatness)] if section.flatness else []


ABOUT = About(
    title="DoRA, Dynamic Low-Rank Adaptation",
    summary="prunes single-rank components by importance until a budget is met",
    paper="Mao et al. 2024, arXiv 2405.17357",
    adapts="attention and FFN projections",
    ranks="pruned",
    mergeable=True,
    lora=True,
    card="""\
Trained with **DoRA, Dynamic Low-Rank Adaptation** (Mao et al., ACL 2024,
[arXiv 2405.17357](https://arxiv.org/abs/2405.17357)): every adapted projection starts with more single-rank components
than the budget allows, the least important are pruned while training goes on, then the ranks are frozen and the rest is
fine-tuned.

This is *not* the weight-decomposed DoRA of Liu et al. (arXiv 2402.09353; PEFT's `use_dora`), an unrelated method of the
same name.""",
    tags=("dynamic-low-rank-adaptation",),
    notes=_notes,
    scale=_scale,
)
