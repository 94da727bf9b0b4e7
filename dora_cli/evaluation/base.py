"""What an evaluation gives, and what is tried of it before a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Metrics = dict[str, float | None]
"""Values by name; None where one cannot be computed on this machine."""

Progress = Callable[[str, int, int], None]
"""Told what is being evaluated, how many batches of it are done, and how many there are."""


def silent(split: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Finished:
    """What is known of finished weights.

    Attributes:
        metrics: what the run reports.
        outputs: for a task that generates, one record per source: the source under its column's name, ``output``,
            ``references``.
        notes: what a reader of the metrics should know.
    """

    metrics: Metrics
    outputs: Sequence[dict[str, Any]] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Trial:
    """Something that a run will do with its model, to be tried on a few rows before it starts.

    Attributes:
        what: such as "decoding"; follows "fails in".
        batch: the section of the recipe whose batch size it follows: ``train``, ``eval`` or ``decode``.
        attempt: does it in this process alone; raises whatever goes wrong.
        fix: what helps where this trial is the first to fail.
    """

    what: str
    batch: str
    attempt: Callable[[], object]
    fix: str = "choose another model"
