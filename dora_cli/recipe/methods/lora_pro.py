"""The keys of LoRA-Pro: those of LoRA without what the method settles itself."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, Positive, Ranks, Section, Seed, Targets, Text
from dora_cli.recipe.methods.lora import OF_RANKS, notes_on_gradients, notes_on_ranks, notes_on_steps, scale_of


class LoraProMethod(Section):
    """LoRA-Pro (Wang et al. 2024): LoRA whose steps follow the gradient of the whole weight.

    Attributes:
        name: which method: ``lora-pro`` is ``lora`` with ``gradients: pro``.
        rank: of every projection that `ranks` does not name.
        ranks: ranks of projections by glob patterns, matched like targets, the first that fits; 0 leaves one as it is.
        ranks_shuffle: a seed by which ranks are exchanged among projections of equal shape; a control for `ranks`.
        ranks_from: a run folder whose final ranks are taken, projection by projection.
        alpha: the update is scaled by ``alpha / rank``, each projection by its own rank.
        scaling: ``standard`` is that; ``rank-stabilised`` is ``alpha / sqrt(rank)``.
        dropout: on the adapters' input.
        moments: ``low-rank``, AdamW's own of the factors; ``full``, of every weight that is adapted, as published.
        damping: added to the factors' Gram matrices.
        step_bound: how far a step may move a projection's weight, over the norm of the weight; it falls to 0 as the
            learning rate does. None is no bound.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
    """

    name: ForRun[Literal["lora-pro"]] = "lora-pro"
    rank: ForRun[Count] = 8
    ranks: ForRun[Ranks | None] = None
    ranks_shuffle: ForRun[Seed | None] = None
    ranks_from: ForRun[Text | None] = None
    alpha: ForRun[Positive] = 16.0
    scaling: ForRun[Literal["standard", "rank-stabilised"]] = "standard"
    dropout: ForRun[FractionBelowOne] = 0.0
    moments: ForRun[Literal["low-rank", "full"]] = "low-rank"
    damping: ForRun[Positive] = 1e-8
    step_bound: ForRun[Positive | None] = None
    targets: ForRun[Targets] = ("attention", "ffn")


SECTION = LoraProMethod
RULES = OF_RANKS


def _notes(section: LoraProMethod) -> list[str]:
    return [
        *notes_on_ranks(section),
        *notes_on_gradients("pro", section.moments),
        *notes_on_steps(section.step_bound),
    ]


ABOUT = About(
    title="LoRA-Pro",
    summary="LoRA whose factors' gradients are adjusted so that a step follows that of the whole weight",
    paper="Wang et al. 2024, arXiv 2407.18242",
    adapts="attention and FFN projections",
    ranks="fixed",
    mergeable=True,
    lora=True,
    card="""\
Trained with **LoRA-Pro** (Wang et al., ICLR 2025, [arXiv 2407.18242](https://arxiv.org/abs/2407.18242)): the base model
is frozen, and every adapted projection learns an update of two factors, of a rank that stays as it is, as in LoRA.""",
    tags=("lora-pro",),
    notes=_notes,
    scale=scale_of,
    federated=True,
)
