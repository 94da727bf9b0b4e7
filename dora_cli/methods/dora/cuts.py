"""What an event of DoRA leaves of each projection, by what components are worth and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dora_cli.methods.base import Site
from dora_cli.methods.dora.schedule import DoraSchedule
from dora_cli.methods.low_rank.allocation.budget import BUDGETS, select
from dora_cli.methods.low_rank.schedule import PruningSchedule


def costs_of(sites: Sequence[Site], unit: str) -> list[int]:
    """What a component of each site costs in a budget that counts `unit` (`allocation.budget`)."""
    return [BUDGETS[unit](site.shape) for site in sites]


class Cuts:
    """What lives after each event.

    Args:
        sites: the projections.
        rank: `rT`, the mean final rank.
        min_rank: what a projection keeps.
        unit: what the budget counts.
        guard: whether chosen ranks are compared with uniform ones at the freeze.
    """

    def __init__(self, sites: Sequence[Site], *, rank: int, min_rank: int, unit: str, guard: bool) -> None:
        self._costs, self._rank, self._min_rank, self._guard = costs_of(sites, unit), rank, min_rank, guard

    def choose(self, worth: torch.Tensor, schedule: PruningSchedule, step: int) -> torch.Tensor:
        """What lives after the event at `step`, of the components that are worth more than nothing can be."""
        assert isinstance(schedule, DoraSchedule)
        there, freeze = worth > -torch.inf, schedule.freeze_step
        # a guard compares with uniform ranks, so what those would take stays until it does
        least = self._rank if self._guard and step < freeze else self._min_rank
        values, costs = worth.masked_fill(~there, 0.0), self._costs
        if step < freeze:
            # what would live if this were the freeze stays: where others are gone for good and ranks have an upper
            # bound, too few could be left to fill the budget
            settled = select(
                values, schedule.allowed(freeze), costs, candidates=there, least=least, most=schedule.most(freeze)
            )
            values = values.masked_fill(settled, torch.inf)
        return select(values, schedule.allowed(step), costs, candidates=there, least=least, most=schedule.most(step))
