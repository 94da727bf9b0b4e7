"""What is known of a run while it goes on."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # training imports reports, not the other way round
    from dora_cli.training.listener import EvalLog, RunStart, StepLog

KEPT = 64
"""Values of loss and metric that a trend shows at most."""


class RunState:
    """Filled by a listener, read by views, the live one in a thread of its own: every attribute is replaced as a whole,
    none is changed.
    """

    def __init__(self, run: RunStart) -> None:
        self.run = run
        self.began = time.monotonic()
        self.first_step = run.resumed_step + 1
        self.step = run.resumed_step
        self.phase = ""
        self.ranks: Mapping[str, int] = {layer["name"]: layer["rank"] for layer in run.layers}
        """Live components of each projection."""
        self.live: int | None = sum(self.ranks.values()) if self.ranks else run.schedule.get("start_components")
        self.budget: int | None = self.live
        self.event: int | None = None
        """The step of the latest event that was seen."""
        self.losses: tuple[tuple[int, float], ...] = ()
        """``(step, loss)`` of the latest logged steps."""
        self.log: StepLog | None = None
        self.metrics: tuple[EvalLog, ...] = ()
        """The latest evaluations."""
        self.best: EvalLog | None = None
        self.evaluating: tuple[str, int, int] | None = None
        """``(split, batches done, batches)`` while an evaluation goes on."""

    def tick(self, step: int, phase: str, budget: int) -> None:
        """After every step: a few assignments, no more."""
        if self.step == self.run.resumed_step:
            self.first_step = step
        self.step, self.phase, self.budget = step, phase, budget
        self.evaluating = None

    def selected(self, step: int, live: int, ranks: Mapping[str, int]) -> None:
        """After an event."""
        self.event, self.live, self.ranks = step, live, ranks

    def logged(self, log: StepLog) -> None:
        """At a logged step."""
        self.log = log
        self.losses = (*self.losses[1 - KEPT :], (log.step, log.loss))

    def evaluated(self, log: EvalLog) -> None:
        """After an evaluation."""
        self.evaluating = None
        self.metrics = (*self.metrics[1 - KEPT :], log)
        if log.best:
            self.best = log

    @property
    def epoch(self) -> int:
        """The epoch that goes on, counted from 1."""
        return min((max(self.step, 1) - 1) // self.run.steps_per_epoch + 1, self.run.epochs)

    @property
    def next_event(self) -> int | None:
        """The step of the next event; None after the last."""
        index = bisect_right(self.run.events, self.step)
        return self.run.events[index] if index < len(self.run.events) else None

    @property
    def elapsed(self) -> float:
        """Seconds since this process started or went on with the run."""
        return time.monotonic() - self.began

    @property
    def time_left(self) -> float | None:
        """Seconds at the mean speed so far, evaluations included; None before the first step."""
        done = self.step - self.first_step + 1
        return self.elapsed / done * (self.run.total_steps - self.step) if self.step >= 1 and done >= 1 else None
