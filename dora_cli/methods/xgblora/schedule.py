"""How many boosters there are, of how many components, and when one follows the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Site
from dora_cli.methods.low_rank.links import LinkSchedule
from dora_cli.methods.xgblora.subsets import Kind, kinds_of, shares
from dora_cli.wording import plural

SHARE = 3
"""A booster trains one of so many blocks where nothing else is said: the paper reports 11 of LLaMA3-8B's 32 as best."""


@dataclass(frozen=True)
class BoostingSchedule(LinkSchedule):
    """Boosters one after the other; build it with `of`, which validates.

    Attributes:
        layers: `L_s`, blocks of a booster.
        kinds: all blocks by kind.
        planned: for each booster how many blocks of each kind.
    """

    layers: int
    kinds: tuple[Kind, ...]
    planned: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls, total_steps: int, sites: Sequence[Site], *, rank: int, layers: int | None, anew: bool
    ) -> BoostingSchedule:
        """Plans as many boosters as ``rank * len(sites)`` components hold. Raises BudgetError, naming any misfit.

        Args:
            total_steps: `T`.
            sites: what is adapted.
            rank: the budget, as components a projection on average.
            layers: `L_s`; None for a third of the blocks, rounded up.
            anew: whether the learning rate's schedule starts anew with each booster.
        """
        if not sites:
            raise BudgetError("no projection is adapted, so there is nothing to boost; check method.targets")
        kinds = tuple(kinds_of(sites))
        blocks = sum(len(kind.blocks) for kind in kinds)
        chosen = ceil(blocks / SHARE) if layers is None else layers
        if not 1 <= chosen <= blocks:
            raise BudgetError(
                f"method.layers is {chosen}, but the targets are in {plural(blocks, 'block')}; a booster trains at "
                "least 1 and at most all of them: lower it, or set null for a third"
            )
        budget, components, planned = rank * len(sites), list[int](), list[tuple[int, ...]]()
        for counts in shares(kinds, chosen):
            size = sum(count * len(kind.shapes) for count, kind in zip(counts, kinds, strict=True))
            if sum(components) + size > budget:
                break
            if len(components) == max(total_steps, 0):
                raise BudgetError(
                    f"the run has {plural(total_steps, 'optimiser step')}, and method.rank {rank} pays for more "
                    "boosters; each needs at least one step: raise train.epochs or train.max_steps, lower method.rank, "
                    "or raise method.layers"
                )
            components.append(size)
            planned.append(counts)
        if not planned:
            raise BudgetError(
                f"method.rank {rank} leaves {plural(budget, 'component')} for {plural(len(sites), 'projection')}, "
                f"fewer than a booster's {size:,}; raise method.rank, or lower method.layers"
            )
        return cls(
            total_steps=total_steps,
            components=tuple(components),
            anew=anew,
            tied_at_end=True,
            layers=chosen,
            kinds=kinds,
            planned=tuple(planned),
        )

    @property
    def sizes(self) -> Sequence[int]:
        """Parameters of each booster."""
        costs = [sum(map(sum, kind.shapes)) for kind in self.kinds]
        return [sum(count * cost for count, cost in zip(counts, costs, strict=True)) for counts in self.planned]

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        """One: which booster a step belongs to is for the events to say."""
        return (("boosting", 1, self.total_steps),)

    def phase(self, step: int) -> str:
        return "boosting"

    def describe(self) -> Mapping[str, Any]:
        """Plain values for records and the dry run."""
        projections = sum(len(kind.blocks) * len(kind.shapes) for kind in self.kinds)
        return {**super().describe(), "link": "booster", "layers": self.layers, "projections": projections}
