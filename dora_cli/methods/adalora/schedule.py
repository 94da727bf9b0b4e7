"""When triplets are masked: one schedule in integers, for training, dry run, reports and tests alike.

With `W`, `L` and `F` of `dora_cli.methods.low_rank.schedule`, `M` projections, and start and final rank `r0` and `rT`::

    events at the multiples of the interval above W and below F, and at F
    budget of an event = M rT + floor(M (r0 - rT) (L - tau)^3 / L^3),   tau = t - W

so the budget falls fast at first. Multiples are those of the step's own number, not of the steps since the warm-up, as
in the authors' code. There the cube is a float; Python's integers are exact, and come to the same for the published
settings. Where nothing is to be pruned, the freeze alone is an event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dora_cli.methods.low_rank.schedule import PruningSchedule


@dataclass(frozen=True)
class AdaloraSchedule(PruningSchedule):
    """AdaLoRA's budget of every step."""

    def is_event(self, step: int) -> bool:
        """Whether a selection follows the optimiser step `step`."""
        return step == self.freeze_step or (step < self.freeze_step and step in self._multiples)

    @property
    def _multiples(self) -> range:
        """The events before the freeze."""
        if self.start_rank == self.rank:
            return range(0)
        first = (self.warmup_steps // self.interval + 1) * self.interval
        return range(first, self.freeze_step, self.interval)

    def events(self) -> Iterator[int]:
        """All event steps, ascending."""
        yield from self._multiples
        yield self.freeze_step

    def next_event(self, step: int) -> int | None:
        """The first event after `step`; None after the freeze."""
        if step >= self.freeze_step:
            return None
        events = self._multiples
        passed = 0 if not events or step < events[0] else (step - events[0]) // self.interval + 1
        return events[passed] if passed < len(events) else self.freeze_step

    def budget(self, step: int) -> int:
        """Triplets that may live after `step`: what the latest event left, all of them before the first."""
        if step >= self.freeze_step:
            return self.final_components
        latest = step - step % self.interval
        if latest not in self._multiples:
            return self.start_components
        left, length = self.freeze_step - latest, self.pruning_steps
        return self.final_components + (self.start_components - self.final_components) * left**3 // length**3

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "curve": "adalora"}
