"""How one key is chosen for one cell: which values are tried with which seeds, until the best one lies inside the grid.

Part of a course: it yields the runs that it wants next and is sent their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from dora_cli.compare.cells import Cell
from dora_cli.compare.experiment import Tuning
from dora_cli.compare.jobs import Job
from dora_cli.compare.scores import Score, with_constants
from dora_cli.compare.statistics import (
    RatePoint,
    choose_rate,
    grow_grid,
    lagging_neighbours,
    rate_grid,
    surviving_rates,
)
from dora_cli.errors import DivergedError

Runs = Generator[Sequence[Job], Sequence[Score], None]
"""Yields runs and is sent their scores in the same order."""


@dataclass(frozen=True)
class Tried:
    """One value of the tuned key."""

    value: float
    scores: tuple[Score, ...]
    added: bool


@dataclass(frozen=True)
class Choice:
    """What the tuning came to; `exhausted` where the best value lies at an edge and the grid may not grow."""

    tried: tuple[Tried, ...]
    value: float
    exhausted: bool

    def points(self, *, lower_is_better: bool) -> list[RatePoint]:
        """For the statistics; see `points_of`."""
        return points_of({tried.value: tried.scores for tried in self.tried}, lower_is_better=lower_is_better)

    def scores_at(self, value: float) -> tuple[Score, ...]:
        """Those of one value."""
        return next(tried.scores for tried in self.tried if tried.value == value)


def tuned(
    cell: Cell, tune: Tuning, job: Callable[[float, int], Job]
) -> Generator[Sequence[Job], Sequence[Score], Choice]:
    """Tries the values of the grid, the promising ones with more seeds, until the best one is inside of it.

    Args:
        job: makes the run of a value and a seed.

    Raises:
        DivergedError: no run has a score, not even below the grid.
    """
    search = _Search(cell, tune, job)
    if tune.keep == "all":
        yield from search.run(dict.fromkeys(search.grid, tune.seed_list))
        yield from search.rescue()
    else:
        kept: Sequence[float] = search.grid
        for seed in tune.seed_list:
            yield from search.run({value: [seed] for value in kept if seed in search.missing(value)})
            yield from search.rescue()
            kept = surviving_rates(search.points, lower_is_better=search.lower)
    while more := search.more():
        yield from search.run({value: search.missing(value) for value in more})
    return search.choice()


class _Search:
    """What was tried of one cell, and what of it is tried next.

    Attributes:
        grid: the values that are tried first.
        lower: whether a lower score is the better one.
    """

    def __init__(self, cell: Cell, tune: Tuning, job: Callable[[float, int], Job]) -> None:
        self.grid = rate_grid(tune.grid.low, tune.grid.high, tune.grid.points)
        self.lower = cell.task.lower_is_better
        self._cell, self._tune, self._job = cell, tune, job
        self._tried: dict[float, list[Score]] = {value: [] for value in self.grid}
        self._exhausted = False

    @property
    def points(self) -> list[RatePoint]:
        """What was tried, for the statistics."""
        return points_of(self._tried, lower_is_better=self.lower)

    @property
    def _added(self) -> list[float]:
        return [value for value in self._tried if value not in self.grid]

    def missing(self, value: float) -> list[int]:
        """Seeds that the value was not given yet."""
        given = {score.seed for score in self._tried.get(value, ())}
        return [seed for seed in self._tune.seed_list if seed not in given]

    def run(self, wanted: Mapping[float, Sequence[int]]) -> Runs:
        """More runs, `wanted` by value and seed."""
        places = [(value, seed) for value, seeds in wanted.items() for seed in seeds]
        scores = yield [self._job(value, seed) for value, seed in places]
        for (value, _), score in zip(places, scores, strict=True):
            self._tried.setdefault(value, []).append(score)

    def rescue(self) -> Runs:
        """Lower values, where no run has a score so far: all have diverged."""
        key = self._tune.key
        while self._lost() and len(self._added) < self._tune.extend and self._cell.takes(key, self._below()):
            yield from self.run({self._below(): self._tune.seed_list})
        if self._lost():
            raise DivergedError(
                f"{self._cell.name}: no run has a score, with {key} from {min(self._tried):g} to "
                f"{max(self._tried):g}; they diverged, or the metric is undefined; lower the grid of tune"
            )

    def _lost(self) -> bool:
        return all(score.value is None for scores in self._tried.values() for score in scores)

    def _below(self) -> float:
        """The next value under the lowest, by the factor of the grid."""
        return float(f"{min(self._tried) * self.grid[0] / self.grid[1]:.6g}")

    def more(self) -> Sequence[float]:
        """Values that must have their seeds before the best one counts: its neighbours, also beyond the grid."""
        if lagging := lagging_neighbours(self.points, lower_is_better=self.lower):
            return lagging
        grown, most = len(self._added), self._tune.extend
        growth = grow_grid(self.points, grown=grown, most=most, lower_is_better=self.lower)
        allowed = [value for value in growth.rates if self._cell.takes(self._tune.key, value)]  # no share above 1, say
        self._exhausted = growth.edge is not None and not allowed
        return allowed

    def choice(self) -> Choice:
        """What it came to, once there is no more."""
        known = [score for scores in self._tried.values() for score in scores]
        found = tuple(
            Tried(value, tuple(with_constants(scores, known, lower_is_better=self.lower)), value not in self.grid)
            for value, scores in sorted(self._tried.items())
        )
        return Choice(found, choose_rate(self.points, lower_is_better=self.lower).rate, self._exhausted)


def points_of(tried: Mapping[float, Sequence[Score]], *, lower_is_better: bool) -> list[RatePoint]:
    """Every value with its scores, for the statistics; those of diverged runs by `with_constants`. At least one run has
    a score.
    """
    known = [score for scores in tried.values() for score in scores]
    points = []
    for value, scores in sorted(tried.items()):
        if scores:
            whole = with_constants(scores, known, lower_is_better=lower_is_better)
            numbers = tuple(score.value for score in whole if score.value is not None)
            assert len(numbers) == len(scores), "one of them has a score"
            points.append(RatePoint(value, numbers, sum(score.collapsed for score in scores)))
    return points
