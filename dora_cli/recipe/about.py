"""What is known of a method without running it: for lists of methods, model cards and tools that rebuild its ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


def _no_notes(section: Any) -> Sequence[str]:
    return ()


def _no_scale(section: Any, start_rank: int, rank: int) -> float:
    return 1.0


@dataclass(frozen=True)
class About:
    """Constant facts of one method; ``ABOUT`` of its module.

    Attributes:
        title: the method's name in full.
        summary: what it does, in one line.
        paper: authors, year and where it stands; empty for what needs no paper.
        adapts: which weights it changes.
        ranks: ``"pruned"`` or ``"grown"`` while training, ``"fixed"`` from the start, or ``"none"``; None where that is
            not said.
        mergeable: whether its updates fit into the base weights; None where that is not said.
        lora: whether what it trains can be exported as plain LoRA, exactly; None where that is not said.
        card: Markdown for a model card: how the method works, with its citation.
        tags: what the hub may find such a model by.
        notes: from the run's section, Markdown sentences on the options that differ from the method as published.
        oddities: from a section, what somebody who wrote it may not expect, a sentence each.
        scale: from the run's section, a projection's start rank and its final rank, the factor on ``B A``.
        head_only: whether nothing trains but the head, so that a model without one learns nothing.
        in_place: whether it trains the base's own tensors, which must be fp32 for that.
        federated: whether clients can train it on their own and a server make one of what they have learned: two
            factors for every projection that keep their shapes and both train.
    """

    title: str
    summary: str
    paper: str
    adapts: str
    ranks: Literal["pruned", "fixed", "grown", "none"] | None
    mergeable: bool | None
    lora: bool | None
    card: str
    tags: tuple[str, ...] = ()
    notes: Callable[[Any], Sequence[str]] = _no_notes
    oddities: Callable[[Any], Sequence[str]] = _no_notes
    scale: Callable[[Any, int, int], float] = _no_scale
    head_only: bool = False
    in_place: bool = False
    federated: bool = False
