"""When one link of a chain follows another, in integers: for methods that learn one update after the other and keep
what was learned.

With `T` steps and `n` links, link `j` (from 1) ends at step ``floor(T j / n)``; what it learned is tied there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dora_cli.errors import BudgetError
from dora_cli.wording import plural


@dataclass(frozen=True)
class LinkSchedule:
    """Links one after the other; steps count from 1. Build it with `plan`, which validates.

    Attributes:
        total_steps: `T`, attempted optimiser steps.
        components: of all projections, how many each link brings.
        anew: whether the learning rate's schedule starts anew with each link.
        tied_at_end: whether the last link is tied too, after step `T`.
    """

    total_steps: int
    components: tuple[int, ...]
    anew: bool
    tied_at_end: bool

    @classmethod
    def plan(
        cls, total_steps: int, components: Sequence[int], *, noun: str, anew: bool, tied_at_end: bool = False
    ) -> LinkSchedule:
        """Raises BudgetError where a link has no step; `noun` is what a recipe calls one."""
        if total_steps < len(components):
            raise BudgetError(
                f"the run has {plural(total_steps, 'optimiser step')} for {plural(len(components), noun)}; each needs "
                f"at least one: raise train.epochs or train.max_steps, or plan fewer {noun}s"
            )
        return cls(total_steps, tuple(components), anew, tied_at_end)

    @property
    def links(self) -> int:
        return len(self.components)

    def last_step(self, link: int) -> int:
        """The step after which `link`, from 1, has ended; 0 for the link 0."""
        return self.total_steps * link // self.links

    def link(self, step: int) -> int:
        """The link, from 1, that `step` belongs to."""
        return bisect_left(range(self.links + 1), step, key=self.last_step)

    @property
    def start_components(self) -> int:
        return self.components[0]

    @property
    def final_components(self) -> int:
        return sum(self.components)

    @property
    def freeze_step(self) -> int:
        """The last event: the beginning of the last link, or its end where that is tied too; 0 without an event."""
        return max(self.events(), default=0)

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        return tuple(
            (self.phase(self.last_step(link)), self.last_step(link - 1) + 1, self.last_step(link))
            for link in range(1, self.links + 1)
        )

    @property
    def restarts(self) -> Sequence[int]:
        return [self.last_step(link) for link in range(1, self.links)] if self.anew else ()

    def phase(self, step: int) -> str:
        return f"link {self.link(step)}"

    def is_event(self, step: int) -> bool:
        """Whether a link is tied after `step`."""
        return step == self.last_step(self.link(step)) and (step < self.total_steps or self.tied_at_end)

    def events(self) -> Iterator[int]:
        """All steps after which a link is tied, ascending."""
        for link in range(1, self.links + self.tied_at_end):
            yield self.last_step(link)

    def next_event(self, step: int) -> int | None:
        """The first step after `step` at which a link is tied; None after the last."""
        return next((event for event in self.events() if event > step), None)

    def budget(self, step: int) -> int:
        """Components there are after `step`: those of the links that have begun."""
        begun = self.link(step) + (1 if step == self.last_step(self.link(step)) else 0)
        return sum(self.components[:begun])

    def describe(self) -> Mapping[str, Any]:
        """Plain values for records and the dry run."""
        return {
            "total_steps": self.total_steps,
            "links": self.links,
            "events": sum(1 for _ in self.events()),
            "first_event": next(self.events(), None),
            "freeze_step": self.freeze_step,
            "start_components": self.start_components,
            "final_components": self.final_components,
        }
