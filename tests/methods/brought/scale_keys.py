"""The keys of the method `scale`, as another package would bring them."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import FractionBelowOne, Section, Targets
from dora_cli.recipe.rules import Rule


class ScaleMethod(Section):
    """A trained vector per projection that multiplies its output.

    Attributes:
        name: which method: ``scale`` multiplies outputs.
        targets: ``attention``, ``ffn`` or glob patterns of projections.
        momentum: of the gradients; the optimiser is SGD.
        nesterov: whether the momentum looks ahead.
    """

    name: ForRun[Literal["scale"]] = "scale"
    targets: ForRun[Targets] = ("attention", "ffn")
    momentum: ForRun[FractionBelowOne] = 0.9
    nesterov: ForRun[bool] = False


def _nesterov(nesterov: bool, momentum: float) -> str | None:
    return "needs method.momentum above 0; raise it, or set false" if nesterov and not momentum else None


SECTION = ScaleMethod
RULES = (Rule(("method.nesterov", "method.momentum"), _nesterov),)
