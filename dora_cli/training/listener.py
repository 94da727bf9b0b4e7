"""What a run tells whoever watches it.

The loop calls these on the main process only; none of them may wait for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunStart:
    """Said once, before the first step."""

    task: str
    model: str
    method: str
    device: str
    precision: str
    seed: int
    output: Path
    total_steps: int
    steps_per_epoch: int
    epochs: int
    global_batch: int
    projections: int
    schedule: Mapping[str, Any]
    trainable_parameters: int
    head_parameters: int
    resumed_step: int = 0
    """Steps that were done when a resumed run went on; 0 for a run from its start."""
    phases: Sequence[tuple[str, int, int]] = ()
    """``(name, first step, last step)``, in order."""
    events: Sequence[int] = ()
    """The steps of all events, ascending; the last is the freeze."""
    layers: Sequence[Mapping[str, Any]] = ()
    """Every adapted projection as in ranks.json, without its scores; `rank` is what lives now."""
    threads: int | None = None
    """Threads on the CPU; None if it is not known."""
    real_tokens: float | None = None
    """What part of the tokens that the first epoch computes is real, the rest being padding; None if unknown."""
    clients: int | None = None
    """Clients of a federated training, whose epochs are rounds, and whose steps and batches are those of one client."""


@dataclass(frozen=True)
class StepLog:
    """One logged step; `loss` is the mean training loss since the last logged step, speeds are over the same steps."""

    step: int
    epoch: int
    phase: str
    budget: int
    live_components: int
    loss: float
    regulariser: float | None
    grad_norm: float
    learning_rate: float
    steps_per_second: float
    samples_per_second: float
    memory_bytes: int | None = None
    """The most memory held so far: the device's on CUDA, the process's on the CPU; None if unknown."""


@dataclass(frozen=True)
class EvalLog:
    """One evaluation. `metrics` maps metric names to values; `primary` names the one that selects."""

    epoch: int
    step: int
    phase: str
    train_loss: float
    metrics: Mapping[str, float | None]
    primary: str
    best: bool


class Listener(Protocol):
    def start(self, start: RunStart) -> None: ...

    def tick(self, step: int, phase: str, budget: int) -> None:
        """Every optimiser step; must cost microseconds."""

    def logged(self, log: StepLog) -> None: ...

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None:
        """After a selection; `ranks` maps each projection's full path to the components that live in it now."""

    def evaluating(self, split: str, done: int, total: int) -> None: ...

    def evaluated(self, log: EvalLog) -> None: ...

    def round_ended(self, record: Mapping[str, Any]) -> None:
        """After a round of federated training: what metrics.json will hold of it (`runs.records.rounds`)."""

    def note(self, message: str) -> None:
        """A one-line message worth a reader's attention, such as a fall-back and its reason."""

    def finish(self, metrics: Mapping[str, Any], ranks: Mapping[str, Any], output: Path) -> None:
        """The contents of metrics.json and ranks.json, and the run folder."""

    def close(self) -> None:
        """Always called last, also after an error."""


class SilentListener:
    """Hears everything, says nothing."""

    def start(self, start: RunStart) -> None: ...

    def tick(self, step: int, phase: str, budget: int) -> None: ...

    def logged(self, log: StepLog) -> None: ...

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None: ...

    def evaluating(self, split: str, done: int, total: int) -> None: ...

    def evaluated(self, log: EvalLog) -> None: ...

    def round_ended(self, record: Mapping[str, Any]) -> None: ...

    def note(self, message: str) -> None: ...

    def finish(self, metrics: Mapping[str, Any], ranks: Mapping[str, Any], output: Path) -> None: ...

    def close(self) -> None: ...


class Listeners:
    """Several listeners told the same, in their order."""

    def __init__(self, *listeners: Listener) -> None:
        self._all = listeners

    def start(self, start: RunStart) -> None:
        for listener in self._all:
            listener.start(start)

    def tick(self, step: int, phase: str, budget: int) -> None:
        for listener in self._all:
            listener.tick(step, phase, budget)

    def logged(self, log: StepLog) -> None:
        for listener in self._all:
            listener.logged(log)

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None:
        for listener in self._all:
            listener.event(step, phase, live, frozen, ranks)

    def evaluating(self, split: str, done: int, total: int) -> None:
        for listener in self._all:
            listener.evaluating(split, done, total)

    def evaluated(self, log: EvalLog) -> None:
        for listener in self._all:
            listener.evaluated(log)

    def round_ended(self, record: Mapping[str, Any]) -> None:
        for listener in self._all:
            listener.round_ended(record)

    def note(self, message: str) -> None:
        for listener in self._all:
            listener.note(message)

    def finish(self, metrics: Mapping[str, Any], ranks: Mapping[str, Any], output: Path) -> None:
        for listener in self._all:
            listener.finish(metrics, ranks, output)

    def close(self) -> None:
        for listener in self._all:
            listener.close()
