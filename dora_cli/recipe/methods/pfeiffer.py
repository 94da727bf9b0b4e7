"""The keys of Pfeiffer et al.'s adapters and their defaults."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, Positive, Section, Targets


class PfeifferMethod(Section):
    """Adapters of Pfeiffer et al. (2020): one bottleneck per block, after the FFN and its norm.

    Attributes:
        name: which method: ``pfeiffer`` inserts an adapter at the end of every block.
        bottleneck: width of every adapter.
        activation: what stands between its two maps; ``relu`` as published, ``gelu`` is the approximation by tanh.
        start_std: standard deviation of the adapters' weights at the start, cut off at two of them.
        train_norms: whether the norms of adapted blocks train, too.
        targets: ``ffn`` or glob patterns of an FFN's second projections.
    """

    name: ForRun[Literal["pfeiffer"]] = "pfeiffer"
    bottleneck: ForRun[Count] = 64
    activation: ForRun[Literal["gelu", "relu"]] = "relu"
    start_std: ForRun[Positive] = 0.02
    train_norms: ForRun[bool] = False
    targets: ForRun[Targets] = ("ffn",)


SECTION = PfeifferMethod


def _notes(section: PfeifferMethod) -> list[str]:
    found = ["The norms of adapted blocks trained, too."] if section.train_norms else []
    if section.activation != "relu":
        found.append(f"The adapters' activation is {section.activation}; the authors' code has relu.")
    return found


ABOUT = About(
    title="Pfeiffer adapters",
    summary="one bottleneck adapter per block, after the FFN and its norm",
    paper="Pfeiffer et al. 2020, arXiv 2005.00247",
    adapts="what every block gives",
    ranks="none",
    mergeable=False,
    lora=False,
    card="""\
Trained with **adapters** (Pfeiffer et al., EACL 2021, [arXiv 2005.00247](https://arxiv.org/abs/2005.00247)): the base
model is frozen, and every block learns one small network, `h + W_up f(W_down h + b_down) + b_up` of what it gives.""",
    tags=("adapters",),
    notes=_notes,
)
