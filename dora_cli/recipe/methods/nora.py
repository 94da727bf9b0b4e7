"""The keys of NoRA, what holds between them, and their defaults: nobody published settings, so the numbers are ours."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, Fraction, FractionBelowOne, Positive, Section, Targets
from dora_cli.recipe.rules import SCALE_FITS_FP16, Rule


class NoraMethod(Section):
    """NoRA, nested LoRA (Lin et al. 2024): a small LoRA between two frozen factors of the base weight.

    Attributes:
        name: which method: ``nora`` trains a LoRA between the factors of a truncated SVD of each base weight.
        rank: of the inner LoRA, and so of the update.
        outer_rank: of the frozen outer factors; at most the smaller side of every projection.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        outer: what the SVD is of: ``plain``, the base weight; ``activation-aware``, the weight with its inputs scaled
            by how strong they are in training data, undone afterwards.
        singular_values: which outer factor holds them: ``output``, the one that writes (published); ``both``, each
            their square root.
        activation_power: with an activation-aware SVD, inputs are scaled by their root mean square to this power.
        calibration_examples: with an activation-aware SVD, training examples from which that is measured.
        stored: whether outer factors are saved with the adapter; else a load computes them again from the base weight.
    """

    name: ForRun[Literal["nora"]] = "nora"
    rank: ForRun[Count] = 8
    outer_rank: ForRun[Count] = 64
    alpha: ForRun[Positive] = 8.0
    dropout: ForRun[FractionBelowOne] = 0.0
    targets: ForRun[Targets] = ("attention", "ffn")
    outer: ForRun[Literal["plain", "activation-aware"]] = "plain"
    singular_values: ForRun[Literal["output", "both"]] = "output"
    activation_power: ForRun[Fraction] = 1.0
    calibration_examples: ForRun[Count] = 256
    stored: ForRun[bool] = True


def _fits_between(rank: int, outer_rank: int) -> str | None:
    if rank > outer_rank:
        return (
            f"must be at most method.outer_rank = {outer_rank}, got {rank}: an update between factors of rank "
            f"{outer_rank} has no more than that; lower it, or raise outer_rank"
        )
    return None


SECTION = NoraMethod
RULES = (
    Rule(("method.rank", "method.outer_rank"), _fits_between),
    SCALE_FITS_FP16,
)


def _notes(section: NoraMethod) -> list[str]:
    found = []
    if section.outer == "activation-aware":
        power = "" if section.activation_power == 1 else f", to the power of {section.activation_power:g}"
        found.append(
            "The SVD was activation-aware: each input was scaled by its root mean square over "
            f"{section.calibration_examples:,} training examples{power}, and the scale undone afterwards."
        )
    if section.singular_values == "both":
        found.append("Both outer factors hold the square roots of the singular values.")
    return found


def _scale(section: NoraMethod, start_rank: int, rank: int) -> float:
    return section.alpha / rank


ABOUT = About(
    title="NoRA, nested LoRA",
    summary="a small LoRA between two frozen factors, from an SVD of each base weight",
    paper="Lin et al. 2024, arXiv 2408.10280",
    adapts="attention and FFN projections",
    ranks="fixed",
    mergeable=True,
    lora=True,
    card="""\
Trained with **NoRA, nested LoRA** (Lin et al. 2024,
[arXiv 2408.10280](https://arxiv.org/abs/2408.10280)): every adapted projection keeps two frozen factors of a truncated
singular value decomposition of its weight, and a small LoRA between them is all that learns.""",
    tags=("nested-lora",),
    notes=_notes,
    scale=_scale,
)
