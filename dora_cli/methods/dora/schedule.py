"""When components are pruned: one schedule in integers, for training, dry run, reports and tests alike.

With `W`, `L` and `F` of `dora_cli.methods.low_rank.schedule`, and `K` what a rank of one costs in all projections
together (their number `M` where components are counted, the sum of ``d_in + d_out`` where parameters are)::

    events at W + j * interval (j = 1, 2, ...) before F, from the first that prunes, and at F
    or, of a given number N, at W + floor(j L / N), j = 1 ... N (every step where N is above L)
    pruned at an event = floor(K (r0 - rT) tau^3 / L^3),   tau = t - W

The curve is that of the published code (slow at first, fastest at the end), not of the paper's equation 9 as printed;
the curve ``adalora`` is AdaLoRA's ``(1 - u)^3`` (fastest at first). Python's integers make both exact. An event that
would prune nothing is none: the freeze alone is one whatever it prunes, since ranks are final from there on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dora_cli.methods.low_rank.schedule import PruningSchedule

Curve = Literal["published", "adalora"]

CURVES: Mapping[Curve, Callable[[int, int], int]] = {
    "published": lambda tau, length: tau**3,
    "adalora": lambda tau, length: length**3 - (length - tau) ** 3,
}
"""How much is pruned `tau` steps after the warm-up, of ``length**3`` in all; none of them ever falls."""


@dataclass(frozen=True)
class DoraSchedule(PruningSchedule):
    """DoRA's budget of every step.

    Attributes:
        curve: ``"published"`` or ``"adalora"``.
        wanted_events: `N`, how many events there are, in place of an interval; None for one.
        unit: what the budget counts: ``"components"``, or what else `allocation.budget.BUDGETS` names.
        rank_cost: `K`, in that unit.
        max_rank: what no projection may have more of in the end; None is no bound.
    """

    curve: Curve
    wanted_events: int | None
    unit: str
    rank_cost: int
    max_rank: int | None

    @classmethod
    def plan(  # type: ignore[override]
        cls,
        *,
        projections: int,
        start_rank: int,
        rank: int,
        curve: Curve = "published",
        wanted_events: int | None = None,
        unit: str = "components",
        rank_cost: int | None = None,
        min_rank: int = 0,
        max_rank: int | None = None,
        **common: Any,
    ) -> DoraSchedule:
        """See `PruningSchedule.plan`; raises BudgetError.

        Args:
            projections, start_rank, rank: as there.
            curve, wanted_events, unit, max_rank: see above.
            rank_cost: see above; None is `projections`, as components cost 1 each.
            min_rank: what every projection keeps.
            common: all else that `PruningSchedule.plan` takes.
        """
        problems = []
        if wanted_events is not None and wanted_events < 1:
            problems.append(f"method.events is {wanted_events}; it must be at least 1, the freeze")
        if not 0 <= min_rank <= max(rank, 0):
            problems.append(
                f"method.min_rank is {min_rank}; it must be from 0 to method.rank {rank}, which is the mean"
            )
        if max_rank is not None and max_rank < rank:
            problems.append(f"method.max_rank is {max_rank}; it must be at least method.rank {rank}, which is the mean")
        return super().plan(
            projections=projections,
            start_rank=start_rank,
            rank=rank,
            curve=curve,
            wanted_events=wanted_events,
            unit=unit,
            rank_cost=projections if rank_cost is None else rank_cost,
            max_rank=max_rank,
            problems=problems,
            **common,
        )

    # -- events: those before the freeze are numbered from 1 -----------------------------------------------------------

    @property
    def _spacing(self) -> tuple[int, int]:
        """Steps between two events, as a fraction: event `j` is ``floor(j p / q)`` steps after the warm-up."""
        if self.wanted_events is None:
            return self.interval, 1
        return self.pruning_steps, min(self.wanted_events, self.pruning_steps)

    def _tau(self, number: int) -> int:
        """How many steps after the warm-up event `number` is."""
        p, q = self._spacing
        return number * p // q

    def _passed(self, tau: int) -> int:
        """The number of the latest event that is at most `tau` steps after the warm-up; 0 before the first."""
        p, q = self._spacing
        return (q * (tau + 1) - 1) // p  # the largest j with j p / q < tau + 1

    @property
    def _numbers(self) -> range:
        """The events before the freeze, from the first that prunes."""
        last = self._passed(self.pruning_steps - 1)
        # no curve falls, so those that prune nothing come first
        earlier = bisect_left(range(1, last + 1), 1, key=lambda number: self.pruned(self._tau(number)))
        return range(1 + earlier, last + 1)

    def is_event(self, step: int) -> bool:
        """Whether a selection follows the optimiser step `step`."""
        tau = step - self.warmup_steps
        if not 0 < tau < self.pruning_steps:
            return tau == self.pruning_steps
        return self._tau(self._passed(tau)) == tau and self.pruned(tau) > 0

    @property
    def first_event(self) -> int:
        """The first step at which something is pruned; the freeze if nothing is before."""
        return next(self.events())

    def events(self) -> Iterator[int]:
        """All event steps, ascending."""
        yield from (self.warmup_steps + self._tau(number) for number in self._numbers)
        yield self.freeze_step

    def next_event(self, step: int) -> int | None:
        """The first event after `step`; None after the freeze."""
        if step >= self.freeze_step:
            return None
        numbers = self._numbers
        number = max(self._passed(max(step - self.warmup_steps, 0)) + 1, numbers.start)
        return self.warmup_steps + self._tau(number) if number in numbers else self.freeze_step

    @property
    def final_components(self) -> int | None:  # type: ignore[override]
        """None of a budget that counts something else: how many components it pays for emerges."""
        return super().final_components if self.unit == "components" else None

    # -- what may live -------------------------------------------------------------------------------------------------

    def _fallen(self, total: int, tau: int) -> int:
        """What of `total` is gone, rounded down, `tau` steps after the warm-up."""
        return total * CURVES[self.curve](tau, self.pruning_steps) // self.pruning_steps**3

    def _selected(self, step: int) -> int:
        """How many steps after the warm-up what lives after `step` was selected; 0 before the first event."""
        tau = min(max(step - self.warmup_steps, 0), self.pruning_steps)
        return self._tau(self._passed(tau)) if tau < self.pruning_steps else tau

    def pruned(self, tau: int) -> int:
        """What an event `tau` steps after the warm-up takes from the budget, in its unit, ``0 <= tau <= L``."""
        return self._fallen(self.rank_cost * (self.start_rank - self.rank), tau)

    def allowed(self, step: int) -> int:
        """What all that lives after `step` may cost, in the budget's unit: all of it before the first event."""
        return self.rank_cost * self.start_rank - self.pruned(self._selected(step))

    def most(self, step: int) -> int:
        """How many components of one projection may live after `step`: from the start rank down to `max_rank`, along
        the budget's curve, so that they hold what the budget allows.
        """
        bound = self.start_rank if self.max_rank is None else min(self.max_rank, self.start_rank)
        return self.start_rank - self._fallen(self.start_rank - bound, self._selected(step))

    def budget(self, step: int) -> int:
        """Components that may live after `step`; of a budget in parameters, as many as it pays for at equal ranks."""
        pruned = self._fallen(self.projections * (self.start_rank - self.rank), self._selected(step))
        return self.start_components - pruned

    def describe(self) -> Mapping[str, Any]:
        p, q = self._spacing
        own = {"interval": p // q, "longest_interval": -(-p // q), "curve": self.curve, "unit": self.unit}
        return {**super().describe(), **own}
