"""When components are pruned: one schedule in integers, for training, dry run, reports and tests alike.

With `W`, `L` and `F` of `dora_cli.methods.low_rank.schedule`::

    events at W + j * interval (j = 1, 2, ...) before F, from the first that prunes, and at F
    pruned at an event = floor(M (r0 - rT) tau^3 / L^3),   tau = t - W

The curve is that of the published code (slow at first, fastest at the end), not of the paper's equation 9 as printed;
the curve ``adalora`` is AdaLoRA's ``(1 - u)^3`` (fastest at first). Python's integers make both exact. An event that
would prune nothing is none: the freeze alone is one whatever it prunes, since ranks are final from there on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dora_cli.methods.low_rank.schedule import PruningSchedule

Curve = Literal["published", "adalora"]


@dataclass(frozen=True)
class DoraSchedule(PruningSchedule):
    """DoRA's budget of every step.

    Attributes:
        curve: ``"published"`` or ``"adalora"``.
    """

    curve: Curve = "published"

    def is_event(self, step: int) -> bool:
        """Whether a selection follows the optimiser step `step`."""
        tau = step - self.warmup_steps
        return tau == self.pruning_steps or (
            0 < tau < self.pruning_steps and tau % self.interval == 0 and self.pruned(tau) > 0
        )

    @property
    def first_event(self) -> int:
        """The first step at which something is pruned; the freeze if nothing is before."""
        taus = range(self.interval, self.pruning_steps, self.interval)
        earlier = bisect_left(taus, 1, key=self.pruned)  # both curves only rise, so those that prune nothing come first
        return self.warmup_steps + taus[earlier] if earlier < len(taus) else self.freeze_step

    def events(self) -> Iterator[int]:
        """All event steps, ascending."""
        yield from range(self.first_event, self.freeze_step, self.interval)
        yield self.freeze_step

    def next_event(self, step: int) -> int | None:
        """The first event after `step`; None after the freeze."""
        if step >= self.freeze_step:
            return None
        first = self.first_event
        if step < first:
            return first
        return min(first + ((step - first) // self.interval + 1) * self.interval, self.freeze_step)

    def pruned(self, tau: int) -> int:
        """Components pruned at an event `tau` steps after the warm-up, ``0 <= tau <= L``."""
        total, length = self.projections * (self.start_rank - self.rank), self.pruning_steps
        if self.curve == "published":
            return total * tau**3 // length**3
        return total * (length**3 - (length - tau) ** 3) // length**3

    def budget(self, step: int) -> int:
        """Components that may live after `step`: what the latest event left, all of them before the first."""
        tau = min(step, self.freeze_step) - self.warmup_steps
        if tau < 0:
            return self.start_components
        if tau < self.pruning_steps:
            tau -= tau % self.interval
        return self.start_components - self.pruned(tau)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "curve": self.curve}
