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


class Evaluator(Protocol):
    """Evaluates one model again and again on data that is encoded once.

    Every process calls it; all get the whole result.
    """

    generates: bool
    """Whether `finish` generates text, and so knows more than `epoch`."""

    def prepare(self) -> None:
        """Loads the libraries of the metrics, which the first evaluation would load otherwise, and has them score two
        rows.

        Raises:
            LibraryError: one of them is broken.
        """

    def trials(self, model: nn.Module, method: Method) -> Sequence[Trial]:
        """What `epoch` and `finish` do with the model, in an order in which the earlier tells more of why the later
        fails.
        """

    def epoch(self, model: nn.Module, method: Method) -> Metrics:
        """The metrics between epochs, as far as the task's `epoch_metrics`."""

    def finish(self, model: nn.Module, method: Method) -> Finished:
        """Everything about finished weights."""
