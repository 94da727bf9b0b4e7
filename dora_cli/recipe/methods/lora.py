"""The keys of plain LoRA, what holds between them, and their defaults."""

from __future__ import annotations

import math
from typing import Any, Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, NonNegative, Positive, Ranks, Section, Seed, Targets, Text
from dora_cli.recipe.rules import Rule, fits_fp16


class LoraMethod(Section):
    """LoRA, Low-Rank Adaptation (Hu et al. 2021): two factors per projection, of a rank that stays as it is.

    Attributes:
        name: which method: ``lora`` adapts every projection with a fixed rank.
        rank: of every projection that `ranks` does not name.
        ranks: ranks of projections by glob patterns, matched like targets, the first that fits; 0 leaves one as it is.
        ranks_shuffle: a seed by which ranks are exchanged among projections of equal shape; a control for `ranks`.
        ranks_from: a run folder whose final ranks are taken, projection by projection.
        alpha: the update is scaled by ``alpha / rank``, each projection by its own rank.
        scaling: ``standard`` is that; ``rank-stabilised`` is ``alpha / sqrt(rank)``.
        learning_rate_ratio: learning rate of `B` over that of `A`; above 1 is LoRA+.
        dropout: on the adapters' input.
        gradients: what the optimiser is given of the factors: ``plain``; ``pro`` (LoRA-Pro), adjusted so that a step
            follows the gradient of the whole weight; ``riemannian``, scaled by the other factor.
        moments: of ``pro``: ``low-rank``, AdamW's own; ``full``, of every weight that is adapted, as published.
        damping: added to the factors' Gram matrices for ``pro`` and ``riemannian``; None is 1e-8 and 1e-2.
        flatness: sigma of the noise on the adapted weights in training (Flat-LoRA); 0 is none.
        step_bound: how far a step may move a projection's weight, over the norm of the weight; it falls to 0 as the
            learning rate does. None is no bound.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
    """

    name: ForRun[Literal["lora"]] = "lora"
    rank: ForRun[Count] = 8
    ranks: ForRun[Ranks | None] = None
    ranks_shuffle: ForRun[Seed | None] = None
    ranks_from: ForRun[Text | None] = None
    alpha: ForRun[Positive] = 8.0
    scaling: ForRun[Literal["standard", "rank-stabilised"]] = "standard"
    learning_rate_ratio: ForRun[Positive] = 1.0
    dropout: ForRun[FractionBelowOne] = 0.1
    gradients: ForRun[Literal["plain", "pro", "riemannian"]] = "plain"
    moments: ForRun[Literal["low-rank", "full"]] = "low-rank"
    damping: ForRun[Positive | None] = None
    flatness: ForRun[NonNegative] = 0.0
    step_bound: ForRun[Positive | None] = None
    targets: ForRun[Targets] = ("attention", "ffn")


def _one_source(ranks: dict[str, int] | None, ranks_from: str | None) -> str | None:
    if ranks is not None and ranks_from is not None:
        return "says ranks by pattern, and method.ranks_from takes them from a run; keep one of the two"
    return None


def _something_to_shuffle(shuffle: int | None, ranks: dict[str, int] | None, ranks_from: str | None) -> str | None:
    if shuffle is not None and ranks is None and ranks_from is None:
        return "exchanges ranks among projections, but all have method.rank; give method.ranks or ranks_from, or null"
    return None


def _fp16_scale(
    alpha: float, rank: int, ranks: dict[str, int] | None, scaling: str, precision: str, dtype: str
) -> str | None:
    least = min([rank, *filter(None, (ranks or {}).values())])  # its projections have the largest scale
    if scaling == "rank-stabilised":
        over, formula, scale = f"the square root of the rank of {least}", "alpha / sqrt(rank)", alpha / math.sqrt(least)
    else:
        over, formula, scale = f"the rank of {least}", "alpha / rank", alpha / least
    return fits_fp16(scale, f"{alpha:g}", over, formula, precision, dtype)


def _one_rate(ratio: float, gradients: str) -> str | None:
    if ratio != 1 and gradients == "pro":
        return (
            f"must be 1 with method.gradients pro, got {ratio:g}: the gradients of both factors are made for one rate; "
            "remove it, or take gradients plain or riemannian"
        )
    return None


def _moments_of_pro(moments: str, gradients: str) -> str | None:
    if moments == "full" and gradients != "pro":
        return f"is full, which method.gradients pro alone has, not {gradients}; set gradients: pro, or remove moments"
    return None


def _something_to_damp(damping: float | None, gradients: str) -> str | None:
    if damping is not None and gradients == "plain":
        return "is for method.gradients pro and riemannian, and plain gradients are taken; remove it, or set gradients"
    return None


SECTION = LoraMethod
OF_RANKS = (
    Rule(("method.ranks", "method.ranks_from"), _one_source),
    Rule(("method.ranks_shuffle", "method.ranks", "method.ranks_from"), _something_to_shuffle),
    Rule(
        ("method.alpha", "method.rank", "method.ranks", "method.scaling", "train.precision", "model.dtype"), _fp16_scale
    ),
)
"""What must hold between a rank, ranks by pattern and their scale."""
OF_GRADIENTS = (
    Rule(("method.learning_rate_ratio", "method.gradients"), _one_rate),
    Rule(("method.damping", "method.gradients"), _something_to_damp),
)
"""What must hold of gradients that are adjusted."""
RULES = (
    *OF_RANKS,
    *OF_GRADIENTS,
    Rule(("method.moments", "method.gradients"), _moments_of_pro),
)


def noise_note(sigma: float) -> str:
    """What a model card says of noise on the adapted weights."""
    return (
        f"It was trained under noise on the adapted weights, of sigma {sigma:g} at the last step (Flat-LoRA; Li et al. "
        "2025, [arXiv 2409.14396](https://arxiv.org/abs/2409.14396))."
    )


def notes_on_ranks(section: Any) -> list[str]:
    """Sentences for a model card on scale and ranks."""
    found = []
    if section.scaling == "rank-stabilised":
        found.append(
            "The update is scaled by `alpha / sqrt(rank)` (rank-stabilised; Kalajdzievski 2023, "
            "[arXiv 2312.03732](https://arxiv.org/abs/2312.03732))."
        )
    if section.ranks is not None:  # those of another run stand there too, by name
        found.append("The ranks were given by pattern or by name.")
    if section.ranks_shuffle is not None:
        found.append("They were exchanged at random among projections of equal shape, as a control.")
    return found


def _notes(section: LoraMethod) -> list[str]:
    found = notes_on_ranks(section)
    if section.learning_rate_ratio != 1:
        found.append(
            f"`B` learned at {section.learning_rate_ratio:g} times the rate of `A` (LoRA+; Hayou et al. 2024, "
            "[arXiv 2402.12354](https://arxiv.org/abs/2402.12354))."
        )
    if section.flatness and section.name == "lora":
        found.append(noise_note(section.flatness))
    return [*found, *notes_on_gradients(section.gradients, section.moments), *notes_on_steps(section.step_bound)]


_MOMENTS = {
    "low-rank": "with AdamW on the factors, which is not as published",
    "full": "with Adam's moments of the whole weights, as published",
}


def notes_on_gradients(gradients: str, moments: str = "low-rank") -> list[str]:
    """Sentences for a model card on what the optimiser was given."""
    said = {
        "pro": (
            "The factors' gradients were adjusted so that a step follows that of the whole weight (LoRA-Pro; Wang et "
            f"al. 2024, [arXiv 2407.18242](https://arxiv.org/abs/2407.18242)), {_MOMENTS[moments]}."
        ),
        "riemannian": (
            "Each factor's gradient was scaled by the other factor (Riemannian; Zhang and Pilanci 2024, "
            "[arXiv 2402.02347](https://arxiv.org/abs/2402.02347))."
        ),
    }
    return [said[gradients]] if gradients in said else []


def notes_on_steps(bound: float | None) -> list[str]:
    """Sentences for a model card on a bound on the steps."""
    return (
        []
        if bound is None
        else [f"No step moved a projection's weight by more than {bound:g} of its norm, less towards the end."]
    )


def scale_of(section: Any, start_rank: int, rank: int) -> float:
    """The factor on ``B A`` of a projection of this rank."""
    return float(section.alpha / (math.sqrt(rank) if section.scaling == "rank-stabilised" else rank))


ABOUT = About(
    title="LoRA, Low-Rank Adaptation",
    summary="two factors per projection, of a rank that stays as it is",
    paper="Hu et al. 2021, arXiv 2106.09685",
    adapts="attention and FFN projections",
    ranks="fixed",
    mergeable=True,
    lora=True,
    card="""\
Trained with **LoRA, Low-Rank Adaptation** (Hu et al., ICLR 2022,
[arXiv 2106.09685](https://arxiv.org/abs/2106.09685)): the base model is frozen, and every adapted projection learns an
update of two factors, of a rank that stays as it is.""",
    tags=("lora",),
    notes=_notes,
    scale=scale_of,
    federated=True,
)
