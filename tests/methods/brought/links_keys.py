"""The keys of the method `links`, as another package would bring them."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, Section, Targets, Text


class LinksMethod(Section):
    """A chain of low-rank links, each trained on top of those before it.

    Attributes:
        name: which method: ``links`` trains one link after another.
        targets: ``attention``, ``ffn`` or glob patterns of projections.
        rank: of a link.
        links: how many there are, of equally many steps.
        held: share of the training split by which links are judged.
        reference: a model from whose weights the first link starts; null starts from gradients.
    """

    name: ForRun[Literal["links"]] = "links"
    targets: ForRun[Targets] = ("attention", "ffn")
    rank: ForRun[Count] = 2
    links: ForRun[Count] = 3
    held: ForRun[FractionBelowOne] = 0.1
    reference: ForRun[Text | None] = None


SECTION = LinksMethod
