"""What an event is told (a budget, a rotation, a refit), and what it keeps while it goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch

from dora_cli.methods.base import Mixture
from dora_cli.methods.low_rank.allocation.budget import select
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.schedule import PruningSchedule


class Choose(Protocol):
    """A budget: which components are to live after an event."""

    def __call__(self, worth: torch.Tensor, schedule: PruningSchedule, step: int) -> torch.Tensor:
        """Marks those that live, boolean like `worth`, ``(projections, r0)``, which is minus infinity for what is gone
        for good. On the device.
        """


class Rotate(Protocol):
    """A change of variables before a cut, which leaves the function as it is."""

    def __call__(self, group: Components) -> tuple[torch.Tensor, list[Mixture]]:
        """Mixes the components of every layer of `group`, in place; returns what each is worth then, ``(rows,)``, and
        how moments follow.
        """


class Refit(Protocol):
    """What is kept makes up for what is cut."""

    def __call__(self, group: Components, B_t: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """`B_t` of the rows of `group` that are kept, zero elsewhere.

        Args:
            B_t: as it was before the cut, ``(rows, d_out)``.
            keep: which rows live, boolean ``(rows,)``.
        """


def masked(group: Components, B_t: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """What is kept stays as it is."""
    return B_t * keep[:, None]


def by_components(worth: torch.Tensor, schedule: PruningSchedule, step: int) -> torch.Tensor:
    """Those of the greatest worth, as many as the budget of the schedule says."""
    return select(worth, schedule.budget(step))


@dataclass
class Cut:
    """An event that goes on.

    Attributes:
        keep: what was selected, ``(projections, r0)``.
        mixed: how moments follow what was done before the selection.
        rivals: selections that are compared by their held-out loss, `keep` the first of them; none otherwise.
        losses: of those that were measured.
        kept: `B_t` of every group, while some of its rows are zero for a measurement.
    """

    keep: torch.Tensor
    mixed: list[Mixture]
    rivals: list[torch.Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)

    @property
    def winner(self) -> torch.Tensor:
        """The last one of the rivals, unless an earlier one is better; what was selected where there are none. A loss
        that is no number is the worst.
        """
        losses = [math.inf if math.isnan(loss) else loss for loss in self.losses]
        best = min(range(len(self.rivals)), key=lambda index: (losses[index], -index), default=None)
        return self.keep if best is None else self.rivals[best]

    @property
    def remark(self) -> str | None:
        """What was found, in words."""
        if not self.rivals:
            return None
        chosen, uniform = self.losses
        took = "the chosen ranks" if self.winner is self.rivals[0] else "uniform ranks"
        return (
            f"the guard takes {took}: the held-out loss is {chosen:.4f} with the chosen ranks and {uniform:.4f} with "
            "uniform ones"
        )
