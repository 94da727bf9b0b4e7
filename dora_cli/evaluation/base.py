"""The contract of an evaluation: after every epoch, and of finished weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from dora_cli.methods import Method

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
        outputs: for a task that generates, one record per source: the source under its column's name, ``output``, ``references``.
        notes: what a reader of the metrics should know.
    """

    metrics: Metrics
    outputs: Sequence[dict[str, Any]] | None = None
    notes: Sequence[str] = ()


class Evaluator(Protocol):
    """Evaluates one model again and again on data that is encoded once. Every process calls it; all get the whole result."""

    generates: bool
    """Whether `finish` generates text, and so knows more than `epoch`."""

    def prepare(self) -> None:
        """Loads the libraries of the metrics, which would otherwise be loaded by the first evaluation."""

    def epoch(self, model: nn.Module, method: Method) -> Metrics:
        """The metrics between epochs, as far as the task's `epoch_metrics`."""

    def finish(self, model: nn.Module, method: Method) -> Finished:
        """Everything about finished weights."""
