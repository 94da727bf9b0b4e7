"""Full fine-tuning has no keys; what must hold around it, and what is known of it."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Section
from dora_cli.recipe.rules import Rule, trains_fp32


class FullMethod(Section):
    """Full fine-tuning: every tensor of the base model trains.

    Attributes:
        name: which method: ``full`` trains the whole model.
    """

    name: ForRun[Literal["full"]] = "full"


SECTION = FullMethod
RULES = (Rule(("model.dtype", "method.name"), trains_fp32),)
ABOUT = About(
    title="full fine-tuning",
    summary="trains every tensor of the base model; what adapters are compared with",
    paper="",
    adapts="the whole base model",
    ranks="none",
    mergeable=True,
    lora=False,
    card="""\
Every tensor of the base model was trained (full fine-tuning); weight decay fell on matrices alone, not on biases and
the weights of normalisations.""",
    in_place=True,
)
