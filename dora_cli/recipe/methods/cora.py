"""The keys of CoRA, what holds between them, and their defaults, which are ours: its paper's settings are not known."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, Models, Positive, Section, Targets
from dora_cli.recipe.rules import SCALE_FITS_FP16, Rule


class CoraMethod(Section):
    """CoRA (Xiao et al. 2024): LoRA in a subspace of outputs that several models, or layers, have in common.

    Attributes:
        name: which method: ``cora`` learns coefficients of a common basis.
        rank: vectors of a basis, so the rank of every projection.
        alpha: the update is scaled by ``alpha / rank``.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        train_basis: whether the basis is where training starts; ``false``: it stays, and half as many numbers train.
        models: other base models of the same shapes that the subspace is common to, besides the recipe's; null takes it
            from the layers of that one alone.
        aggregate: ``weights`` puts the weights of all models side by side; ``differences`` those of the other models to
            the recipe's.
        common_to: one basis for all projections of a ``role`` (and output width), or one for each ``projection``.
        normalise: divide every matrix by its norm first, so that none counts more than another.
        center: subtract the mean of all columns first.
    """

    name: ForRun[Literal["cora"]] = "cora"
    rank: ForRun[Count] = 8
    alpha: ForRun[Positive] = 8.0
    dropout: ForRun[FractionBelowOne] = 0.1
    targets: ForRun[Targets] = ("attention", "ffn")
    train_basis: ForRun[bool] = False
    models: ForRun[Models | None] = None
    aggregate: ForRun[Literal["weights", "differences"]] = "weights"
    common_to: ForRun[Literal["role", "projection"]] = "role"
    normalise: ForRun[bool] = True
    center: ForRun[bool] = False


def _something_to_differ(aggregate: str, models: tuple[str, ...] | None) -> str | None:
    if aggregate == "differences" and models is None:
        return "are those of other models to the recipe's own, and method.models names none; name some, or set weights"
    return None


SECTION = CoraMethod
RULES = (
    SCALE_FITS_FP16,
    Rule(("method.aggregate", "method.models"), _something_to_differ),
)


def _notes(section: CoraMethod) -> list[str]:
    found = []
    if section.models is not None:
        what = "weights" if section.aggregate == "weights" else "differences to the base model"
        found.append(f"The subspace is that of the {what} of {', '.join(f'`{name}`' for name in section.models)}.")
    else:
        found.append("The subspace is that of the base model's own layers.")
    if section.train_basis:
        found.append("The basis was trained, too, from the common start on.")
    return found


def _scale(section: CoraMethod, start_rank: int, rank: int) -> float:
    return section.alpha / rank


ABOUT = About(
    title="CoRA, low-rank adaptation in a common subspace",
    summary="one factor is a basis of a subspace that models or layers have in common, frozen or trained on",
    paper="Xiao et al. 2024, arXiv 2409.02119",
    adapts="attention and FFN projections",
    ranks="fixed",
    mergeable=True,
    lora=True,
    card="""\
Trained with **CoRA** (Xiao et al. 2024, [arXiv 2409.02119](https://arxiv.org/abs/2409.02119)): the update of every
adapted projection is a product of two factors, of which the one that gives outputs is a basis of a subspace that
several weight matrices have in common; the other learns coefficients in it, from zero on.""",
    tags=("common-subspace",),
    notes=_notes,
    scale=_scale,
)
