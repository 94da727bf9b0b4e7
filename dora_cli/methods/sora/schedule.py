"""When SoRA's gates are counted, and which threshold they meet at every step, in integers.

Without stages there is one threshold from the first step to the last. With `K` stages over `T` steps (the sparsifying
scheduler) the first has ``F = floor(f T)`` steps and the others share the rest evenly: stage ``k`` (from 0) ends after
step ``F + floor(k (T - F) / (K - 1))``. The threshold takes `K` equally spaced values.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

from dora_cli.errors import BudgetError
from dora_cli.wording import plural

COUNTS = 50
"""How often gates are counted, about."""


@dataclass(frozen=True)
class SoraSchedule:
    """Steps count from 1; build it with `plan`, which validates.

    There is no budget: how many components are left is what the gates come to.

    Attributes:
        total_steps: `T`, attempted optimiser steps.
        projections: how many projections are adapted.
        rank: components of each at the start.
        thresholds: `xi` of every stage.
        ends: the last step of every stage, ascending; the last one is `T`.
    """

    total_steps: int
    projections: int
    rank: int
    thresholds: tuple[float, ...]
    ends: tuple[int, ...]

    @classmethod
    def plan(
        cls,
        *,
        total_steps: int,
        projections: int,
        rank: int,
        threshold: float,
        max_threshold: float | None,
        stages: int,
        first_fraction: float,
    ) -> SoraSchedule:
        """Validates, reporting all that is wrong in one BudgetError, and returns the schedule.

        Args:
            total_steps: `T`.
            projections: how many are adapted.
            rank: components of each.
            threshold: `xi`, of the first stage where there are several.
            max_threshold: that of the last stage; None for one stage.
            stages: `K`.
            first_fraction: `f`, read as a decimal.
        """
        problems = []
        if projections < 1:
            problems.append("no projection is adapted, so there is nothing to make sparse; check method.targets")
        if rank < 1:
            problems.append(f"method.rank is {rank}; it must be at least 1")
        if total_steps < 1:
            problems.append(
                f"the run has {total_steps} optimiser steps; it needs at least 1: raise train.epochs or train.max_steps"
            )
        thresholds: tuple[float, ...] = (threshold,)
        ends: tuple[int, ...] = (total_steps,)
        if max_threshold is not None:
            if stages < 2:
                problems.append(f"method.threshold_stages is {stages}; a threshold that rises needs at least 2")
            if not threshold < max_threshold:
                problems.append(
                    f"method.max_gate_threshold is {max_threshold}; it must be above method.gate_threshold {threshold}"
                )
            if not 0 < first_fraction < 1:
                problems.append(f"method.first_stage_fraction is {first_fraction}; it must be above 0 and below 1")
        if not problems and max_threshold is not None:
            later = stages - 1
            first = floor(Fraction(str(first_fraction)) * total_steps)
            if first < 1 or total_steps - first < later:
                problems.append(
                    f"the run has {plural(total_steps, 'optimiser step')}, of which the first of {stages} stages gets "
                    f"floor({first_fraction:g} x {total_steps}) = {first}; every stage needs at least 1: raise "
                    "train.epochs or train.max_steps, or lower method.threshold_stages"
                )
            rise = max_threshold - threshold
            thresholds = (*(threshold + rise * stage / later for stage in range(later)), max_threshold)
            ends = tuple(first + stage * (total_steps - first) // later for stage in range(stages))
        if problems:
            raise BudgetError("\n".join(problems))
        return cls(total_steps, projections, rank, thresholds, ends)

    @property
    def start_components(self) -> int:
        return self.projections * self.rank

    @property
    def final_components(self) -> None:
        """There is no budget."""
        return None

    @property
    def freeze_step(self) -> int:
        """None: a gate may come back until the last step."""
        return 0

    def stage(self, step: int) -> int:
        """The number of the stage that `step` belongs to, from 0."""
        return min(bisect_left(self.ends, step), len(self.ends) - 1)

    def threshold(self, step: int) -> float:
        """`xi` at `step`."""
        return self.thresholds[self.stage(step)]

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        """``(name, first step, last step)`` of every stage."""
        firsts = (1, *(end + 1 for end in self.ends))
        return tuple((self.phase(end), first, end) for first, end in zip(firsts, self.ends, strict=False))

    @property
    def restarts(self) -> Sequence[int]:
        return self.ends[:-1]

    def phase(self, step: int) -> str:
        return "training" if len(self.ends) == 1 else f"stage {self.stage(step) + 1}"

    def budget(self, step: int) -> int:
        """All: a component whose gate is zero may come back."""
        return self.start_components

    @property
    def interval(self) -> int:
        """Steps between two counts, but for those at the ends of stages."""
        return -(-self.total_steps // COUNTS)

    def next_event(self, step: int) -> int | None:
        """The first step after `step` at which live gates are counted; None after the last step."""
        if step >= self.total_steps:
            return None
        return min((step // self.interval + 1) * self.interval, self.ends[bisect_right(self.ends, step)])

    def events(self) -> Iterator[int]:
        """All of them, ascending."""
        step = self.next_event(0)
        while step is not None:
            yield step
            step = self.next_event(step)

    def is_event(self, step: int) -> bool:
        """Whether live gates are counted after `step`."""
        return self.next_event(step - 1) == step

    def describe(self) -> Mapping[str, Any]:
        """Plain values for records and the dry run."""
        return {
            "total_steps": self.total_steps,
            "freeze_step": self.freeze_step,
            "events": sum(1 for _ in self.events()),
            "first_event": next(self.events()),
            "interval": self.interval,
            "thresholds": list(self.thresholds),
            "projections": self.projections,
            "start_rank": self.rank,
            "start_components": self.start_components,
            "final_components": self.final_components,
        }
