"""The keys of Houlsby et al.'s adapters and their defaults."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, Positive, Section, Targets


class HoulsbyMethod(Section):
    """Adapters of Houlsby et al. (2019): two bottlenecks per block, after attention and after the FFN.

    Attributes:
        name: which method: ``houlsby`` inserts adapters after attention and FFN.
        bottleneck: width of every adapter.
        activation: what stands between its two maps; ``gelu`` is the approximation by tanh, as published.
        start_std: standard deviation of the adapters' weights at the start, cut off at two of them; as published.
        train_norms: whether the norms of adapted blocks train too, as published; not counted in published sizes.
        targets: ``attention`` (adapters after its output projection), ``ffn`` (after its second projection) or glob
            patterns of such projections.
    """

    name: ForRun[Literal["houlsby"]] = "houlsby"
    bottleneck: ForRun[Count] = 64
    activation: ForRun[Literal["gelu", "relu"]] = "gelu"
    start_std: ForRun[Positive] = 1e-3
    train_norms: ForRun[bool] = False
    targets: ForRun[Targets] = ("attention", "ffn")


SECTION = HoulsbyMethod


def _notes(section: HoulsbyMethod) -> list[str]:
    found = ["The norms of adapted blocks trained, too."] if section.train_norms else []
    if section.activation != "gelu":
        found.append(f"The adapters' activation is {section.activation}; the paper's code has gelu.")
    return found


ABOUT = About(
    title="Houlsby adapters",
    summary="two bottleneck adapters per block, after attention and after the FFN",
    paper="Houlsby et al. 2019, arXiv 1902.00751",
    adapts="what attention and FFN give, before the residual sum",
    ranks="none",
    mergeable=False,
    lora=False,
    card="""\
Trained with **adapters** (Houlsby et al., ICML 2019, [arXiv 1902.00751](https://arxiv.org/abs/1902.00751)): the base
model is frozen, and every block learns two small networks, `h + W_up f(W_down h + b_down) + b_up` of what its attention
and its FFN give.""",
    tags=("adapters",),
    notes=_notes,
)
