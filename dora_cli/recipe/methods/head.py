"""Training the head alone has no keys."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Section


class HeadMethod(Section):
    """Trains the head alone on the frozen base; the floor other methods are compared with.

    Attributes:
        name: which method: ``head`` trains the head alone.
    """

    name: ForRun[Literal["head"]] = "head"


SECTION = HeadMethod
ABOUT = About(
    title="the head alone",
    summary="trains the head on the frozen base; the floor other methods are compared with",
    paper="",
    adapts="no projection; the head alone trains",
    ranks="none",
    mergeable=True,
    lora=False,
    card="The head alone was trained; the base model is as it was.",
    head_only=True,
)
