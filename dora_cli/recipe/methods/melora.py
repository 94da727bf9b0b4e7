"""The keys of MELoRA, what holds between them, and their defaults: those of the published scripts."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, Positive, Section, Targets
from dora_cli.recipe.rules import SCALE_FITS_FP16


class MeloraMethod(Section):
    """MELoRA, Mini-Ensemble Low-Rank Adapters (Ren et al. 2024): several small LoRAs beside each other.

    Attributes:
        name: which method: ``melora`` cuts inputs and outputs into parts, with a LoRA of its own for each.
        rank: of each mini; together they have up to ``minis`` times that.
        minis: how many there are; divides the inputs and outputs of every adapted projection.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
    """

    name: ForRun[Literal["melora"]] = "melora"
    rank: ForRun[Count] = 8
    minis: ForRun[Count] = 2
    alpha: ForRun[Positive] = 16.0
    dropout: ForRun[FractionBelowOne] = 0.05
    targets: ForRun[Targets] = ("attention", "ffn")


SECTION = MeloraMethod
RULES = (SCALE_FITS_FP16,)


def _scale(section: MeloraMethod, start_rank: int, rank: int) -> float:
    """By the rank of a mini, not by the components of all."""
    return section.alpha / section.rank


ABOUT = About(
    title="MELoRA, Mini-Ensemble Low-Rank Adapters",
    summary="small LoRAs beside each other, between parts of the inputs and outputs: more rank from as many numbers",
    paper="Ren et al. 2024, arXiv 2402.17263",
    adapts="attention and FFN projections",
    ranks="fixed",
    mergeable=True,
    lora=True,
    card="""\
Trained with **MELoRA, Mini-Ensemble Low-Rank Adapters** (Ren et al., ACL 2024,
[arXiv 2402.17263](https://arxiv.org/abs/2402.17263)): inputs and outputs of every adapted projection are cut into equal
parts, and a small LoRA leads from each part to its own. As one LoRA they are block-diagonal, of a rank that is the sum
of theirs.""",
    tags=("mini-ensemble-low-rank-adapters",),
    scale=_scale,
)
