"""When components are pruned, in integers: what the schedules of methods that select components have in common.

Fractions are read as decimals (``Fraction(str(f))``), so that 0.15 of 100 steps is 15 and not 14. With `T` steps,
warm-up fraction `w` and final fraction `f`::

    W = floor(w T)             last warm-up step
    L = floor((1 - w - f) T)   steps of pruning
    F = W + L                  the freeze: the last event
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isfinite
from typing import Any, TypeVar

from dora_cli.errors import BudgetError
from dora_cli.wording import plural

S = TypeVar("S", bound="PruningSchedule")


@dataclass(frozen=True)
class PruningSchedule:
    """The budget of every step: warm-up, pruning up to the freeze, and the rest. Steps count from 1; build it with
    `plan`, which validates.

    Attributes:
        total_steps: `T`, attempted optimiser steps.
        projections: `M`, how many projections are adapted.
        start_rank: `r0`, components a projection starts with.
        rank: `rT`, the mean final rank of a projection.
        warmup_steps: `W`, the last step of the warm-up.
        pruning_steps: `L`, how many steps pruning lasts.
        interval: steps between events.
    """

    total_steps: int
    projections: int
    start_rank: int
    rank: int
    warmup_steps: int
    pruning_steps: int
    interval: int

    @classmethod
    def plan(
        cls: type[S],
        *,
        total_steps: int,
        projections: int,
        start_rank: int,
        rank: int,
        warmup_fraction: float,
        final_fraction: float,
        interval: int,
        problems: Sequence[str] = (),
        **own: Any,
    ) -> S:
        """Validates every bound, reporting all that are broken in one BudgetError, and returns the schedule; `own` is
        what a kind of schedule has of its own, `problems` what is wrong with that.
        """
        problems = list(problems)
        fractions = {"warmup_fraction": warmup_fraction, "final_fraction": final_fraction}
        problems += [
            f"method.{key} is {value}; it must be in [0, 1)" for key, value in fractions.items() if not 0 <= value < 1
        ]
        # nan and infinities have no decimal: such a fraction is reported above and counts as 0 in the other checks
        warmup, final = (Fraction(str(value)) if isfinite(value) else Fraction(0) for value in fractions.values())
        if rank < 1:
            problems.append(f"method.rank is {rank}; it must be at least 1")
        if start_rank < rank:
            problems.append(
                f"method.start_rank is {start_rank}, below method.rank {rank}; pruning can only shrink: raise "
                "start_rank or lower rank"
            )
        if warmup + final >= 1:
            problems.append(
                f"method.warmup_fraction {float(warmup)} + method.final_fraction {float(final)} leave no time to "
                "prune; their sum must stay below 1"
            )
        if interval < 1:
            problems.append(f"method.prune_interval is {interval}; it must be at least 1 step")
        if projections < 1:
            problems.append("no projection is adapted, so there is nothing to allocate; check method.targets")
        if not problems:
            pruning = 1 - warmup - final
            if floor(pruning * total_steps) < 1:
                problems.append(
                    f"the run has {plural(total_steps, 'optimiser step')}, of which pruning gets "
                    f"floor({float(pruning):g} x {total_steps}) = 0; it needs at least "
                    f"{plural(ceil(1 / pruning), 'step')}: raise train.epochs or train.max_steps, lower "
                    "train.batch_size, or lower the fractions"
                )
        if problems:
            raise BudgetError("\n".join(problems))
        return cls(
            total_steps=total_steps,
            projections=projections,
            start_rank=start_rank,
            rank=rank,
            warmup_steps=floor(warmup * total_steps),
            pruning_steps=floor((1 - warmup - final) * total_steps),
            interval=interval,
            **own,
        )

    @property
    def start_components(self) -> int:
        return self.projections * self.start_rank

    @property
    def final_components(self) -> int:
        return self.projections * self.rank

    @property
    def freeze_step(self) -> int:
        return self.warmup_steps + self.pruning_steps

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        """``(name, first step, last step)`` of the phases that have steps, in order."""
        bounds = (
            ("warm-up", 1, self.warmup_steps),
            ("pruning", self.warmup_steps + 1, self.freeze_step),
            ("final", self.freeze_step + 1, self.total_steps),
        )
        return tuple(phase for phase in bounds if phase[1] <= phase[2])

    @property
    def restarts(self) -> Sequence[int]:
        return ()

    def phase(self, step: int) -> str:
        """Name of the phase that `step` belongs to; the freeze itself is the last step of pruning."""
        if step <= self.warmup_steps:
            return "warm-up"
        return "pruning" if step <= self.freeze_step else "final"

    def is_event(self, step: int) -> bool:
        """Whether a selection follows the optimiser step `step`."""
        raise NotImplementedError

    def events(self) -> Iterator[int]:
        """All event steps, ascending."""
        raise NotImplementedError

    def next_event(self, step: int) -> int | None:
        """The first event after `step`; None after the freeze."""
        raise NotImplementedError

    def budget(self, step: int) -> int:
        """Components that may live after `step`: what the latest event left, all of them before the first."""
        raise NotImplementedError

    def describe(self) -> Mapping[str, Any]:
        """Plain values for records and the dry run."""
        return {
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "pruning_steps": self.pruning_steps,
            "freeze_step": self.freeze_step,
            "final_steps": self.total_steps - self.freeze_step,
            "events": sum(1 for _ in self.events()),
            "first_event": next(iter(self.events())),
            "interval": self.interval,
            "projections": self.projections,
            "start_rank": self.start_rank,
            "rank": self.rank,
            "start_components": self.start_components,
            "final_components": self.final_components,
        }
