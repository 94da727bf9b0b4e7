"""BitFit has no keys; what must hold around it, and what is known of it."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Section
from dora_cli.recipe.rules import Rule, trains_fp32


class BitfitMethod(Section):
    """BitFit (Ben Zaken et al. 2022): the biases of the base model train, those of LayerNorm included.

    Attributes:
        name: which method: ``bitfit`` trains biases alone.
    """

    name: ForRun[Literal["bitfit"]] = "bitfit"


SECTION = BitfitMethod
RULES = (Rule(("model.dtype", "method.name"), trains_fp32),)
ABOUT = About(
    title="BitFit",
    summary="trains the biases of the base model, those of LayerNorm included",
    paper="Ben Zaken et al. 2022, arXiv 2106.10199",
    adapts="every bias",
    ranks="none",
    mergeable=True,
    lora=False,
    card="""\
Trained with **BitFit** (Ben Zaken et al., ACL 2022, [arXiv 2106.10199](https://arxiv.org/abs/2106.10199)): of the base
model the biases alone were trained, those of LayerNorm included.""",
    tags=("bitfit",),
    in_place=True,
)
