"""The keys of XGBLoRA, what holds between them, and their defaults, most of which are ours: the paper's are not known
here.
"""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, NonNegative, Positive, Section, Targets
from dora_cli.recipe.rules import Rule, fits_fp16


class XgbloraMethod(Section):
    """XGBLoRA (Zhang et al. 2024): gradient boosting of rank-1 adapters on random blocks.

    Attributes:
        name: which method: ``xgblora`` trains one rank-1 booster after the other, each on blocks of its own.
        rank: the budget, as components per projection on average; it says how many boosters there are.
        layers: how many blocks, drawn at random, a booster adapts; null is a third of them, rounded up.
        alpha: scale of a booster's update; that of rank 1, so nothing divides it.
        step_size: what a booster counts once it is trained.
        norm_penalty: weight of half the squared norms of the factors that train in the loss; 0 turns it off.
        dropout: on the input of the booster that trains.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        restart_learning_rate: whether the learning rate rises and falls anew with each booster, or once in the run.
    """

    name: ForRun[Literal["xgblora"]] = "xgblora"
    rank: ForRun[Count] = 8
    layers: ForRun[Count | None] = None
    alpha: ForRun[Positive] = 1.0
    step_size: ForRun[Positive] = 1.0
    norm_penalty: ForRun[NonNegative] = 1e-4
    dropout: ForRun[FractionBelowOne] = 0.0
    targets: ForRun[Targets] = ("attention", "ffn")
    restart_learning_rate: ForRun[bool] = True


def _fp16_scale(alpha: float, step_size: float, precision: str, dtype: str) -> str | None:
    scale = alpha * max(step_size, 1.0)
    over = "1" if step_size <= 1 else f"1 / method.step_size = {1 / step_size:g}"
    return fits_fp16(scale, f"{alpha:g}", over, "alpha and by the step size", precision, dtype)


SECTION = XgbloraMethod
RULES = (Rule(("method.alpha", "method.step_size", "train.precision", "model.dtype"), _fp16_scale),)


def _notes(section: XgbloraMethod) -> list[str]:
    found = []
    if section.step_size != 1:
        found.append(f"A booster counts {section.step_size:g} times what it had learned.")
    if not section.restart_learning_rate:
        found.append("The learning rate rose and fell once, over all boosters.")
    return found


def _scale(section: XgbloraMethod, start_rank: int, rank: int) -> float:
    return section.alpha * section.step_size


ABOUT = About(
    title="XGBLoRA, eXtreme Gradient Boosting LoRA",
    summary="rank-1 boosters on random blocks, one after the other, each kept as it is once it is trained",
    paper="Zhang et al. 2024, arXiv 2410.19694",
    adapts="attention and FFN projections",
    ranks="grown",
    mergeable=True,
    lora=True,
    card="""\
Trained with **XGBLoRA, eXtreme Gradient Boosting LoRA** (Zhang et al. 2024,
[arXiv 2410.19694](https://arxiv.org/abs/2410.19694)): one booster after the other adapts the projections of some
randomly drawn blocks with a single component each, on top of what the boosters before it have learned. A projection's
rank is the number of boosters that have adapted it.""",
    tags=("xgblora",),
    notes=_notes,
    scale=_scale,
)
