"""The keys of SoRA, what holds between them, and their defaults: those of the published script, with the operator that
the paper gives.
"""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, NonNegative, Positive, Section, Share, Targets
from dora_cli.recipe.rules import SCALE_FITS_FP16, Rule


class SoraMethod(Section):
    """SoRA, Sparse Low-rank Adaptation (Ding et al. 2023): gates that a penalty and a threshold push to zero.

    Attributes:
        name: which method: ``sora`` lets ranks emerge from gates that become zero.
        rank: of every projection at the start; what is left of it emerges.
        alpha: the update is scaled by ``alpha / rank``, for good.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        threshold: ``soft`` (the paper): sign(g) max(abs(g) - gate_threshold, 0); ``official`` (the authors' code) sets
            to zero what is below twice the threshold.
        gate_penalty: weight of the mean size of all gates in the loss; 0 turns it off.
        gate_threshold: by how much every gate shrinks after each step, whatever the learning rate; 0 turns it off.
        gate_learning_rate_ratio: learning rate of the gates over that of all else.
        max_gate_threshold: the sparsifying scheduler: the threshold rises to this in stages; null leaves it as it is.
        threshold_stages: how many values the scheduler's threshold takes, equally spaced, the first included.
        first_stage_fraction: share of the steps that the scheduler's first stage has; the others share the rest.
    """

    name: ForRun[Literal["sora"]] = "sora"
    rank: ForRun[Count] = 8
    alpha: ForRun[Positive] = 16.0
    dropout: ForRun[FractionBelowOne] = 0.0
    targets: ForRun[Targets] = ("attention", "ffn")
    threshold: ForRun[Literal["soft", "official"]] = "soft"
    gate_penalty: ForRun[NonNegative] = 10.0
    gate_threshold: ForRun[NonNegative] = 3e-4
    gate_learning_rate_ratio: ForRun[Positive] = 1.0
    max_gate_threshold: ForRun[Positive | None] = None
    threshold_stages: ForRun[Count] = 7
    first_stage_fraction: ForRun[Share] = 0.36


def _rises(highest: float | None, threshold: float) -> str | None:
    if highest is not None and highest <= threshold:
        return (
            f"must be above method.gate_threshold = {threshold:g}, from which it rises, got {highest:g}; raise it, "
            "lower gate_threshold, or set null for a threshold that stays"
        )
    return None


def _stages(stages: int, highest: float | None) -> str | None:
    if highest is not None and stages < 2:
        return (
            f"must be at least 2 for a threshold that rises to method.max_gate_threshold, got {stages}; raise it, or "
            "set max_gate_threshold to null"
        )
    return None


SECTION = SoraMethod
RULES = (
    Rule(("method.max_gate_threshold", "method.gate_threshold"), _rises),
    Rule(("method.threshold_stages", "method.max_gate_threshold"), _stages),
    SCALE_FITS_FP16,
)


def _notes(section: SoraMethod) -> list[str]:
    found = []
    if section.threshold == "official":
        found.append("Gates were thresholded as the authors' code does it: zero below twice the threshold.")
    if section.max_gate_threshold is not None:
        found.append(
            f"The threshold rose from {section.gate_threshold:g} to {section.max_gate_threshold:g} in "
            f"{section.threshold_stages} stages (the sparsifying scheduler)."
        )
    return found


def _scale(section: SoraMethod, start_rank: int, rank: int) -> float:
    """By the start rank, also of what is left at the end."""
    return section.alpha / start_rank


ABOUT = About(
    title="SoRA, Sparse Low-rank Adaptation",
    summary="gates that a penalty and a threshold push to zero; how many components are left emerges",
    paper="Ding et al. 2023, arXiv 2311.11696",
    adapts="attention and FFN projections",
    ranks="pruned",
    mergeable=True,
    lora=True,
    card="""\
Trained with **SoRA, Sparse Low-rank Adaptation** (Ding et al., EMNLP 2023,
[arXiv 2311.11696](https://arxiv.org/abs/2311.11696)): every component of an adapted projection's low-rank update has a
gate, a penalty and a threshold after each step push the gates to zero, and what is zero in the end is left out. How
many components a projection keeps is not given beforehand.""",
    tags=("sparse-low-rank-adaptation",),
    notes=_notes,
    scale=_scale,
)
