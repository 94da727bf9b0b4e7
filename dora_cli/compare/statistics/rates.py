"""Choosing a learning rate (or another positive number) from a grid of equal factors, a few seeds each.

Everything is a pure function of `RatePoint`s: a tried rate with its scores by the selection split. A collapsed run, one
that diverged or says the same of every example, counts with the score it has. Nowhere may the dev split's scores go in,
but for what `expected_best` reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class RatePoint:
    """A tried rate: above 0, with its scores, one a seed so far, and how many of those runs collapsed."""

    rate: float
    scores: tuple[float, ...]
    collapsed: int = 0

    @property
    def mean(self) -> float:
        """Over the seeds so far, to twelve digits: scores of some hundred examples are often equal but for rounding."""
        return float(f"{math.fsum(self.scores) / len(self.scores):.12g}")


@dataclass(frozen=True)
class ChosenRate:
    """The best rate and how sharp the optimum is.

    Attributes:
        rate: the best by mean score.
        mean: its mean score.
        interior: whether a rate was tried on either side of it.
        standard_error: of that mean; None where no spread is known.
        band: lowest and highest rate of the stretch of tried rates around the best whose means all lie within one
            standard error of it; None where no error is known.
    """

    rate: float
    mean: float
    interior: bool
    standard_error: float | None
    band: tuple[float, float] | None


def rate_grid(low: float, high: float, points: int) -> tuple[float, ...]:
    """`points` rates from `low` to `high` by equal factors, to six digits; a single one is `low`."""
    return tuple(_rounded(float(rate)) for rate in np.geomspace(low, high, points))


def choose_rate(points: Sequence[RatePoint], *, lower_is_better: bool = False) -> ChosenRate:
    """The rate with the best mean over seeds, among those with the most seeds; of equal ones the lowest.

    A rate that halving dropped has fewer seeds and cannot win: a mean over one lucky seed is not one over two.

    The band is by the one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section
    3.4.3). A cell of two seeds knows its own spread from one degree of freedom, so the variance is pooled over the best
    rate and its two neighbours, without those where a run collapsed: ``se = sqrt(sum sum (y - mean)^2 / sum (n - 1)) /
    sqrt(n_best)``.
    """
    grid = _ascending(points)
    best = _best(grid, lower_is_better)
    error = _standard_error(cells_near_best(grid, lower_is_better=lower_is_better), len(grid[best].scores))
    band = None
    if error is not None:
        limit = error + 1e-11 * abs(grid[best].mean)  # means have twelve digits
        inside = [
            abs(point.mean - grid[best].mean) <= limit or _better(point, grid[best], lower_is_better) for point in grid
        ]
        low = high = best
        while low > 0 and inside[low - 1]:
            low -= 1
        while high < len(grid) - 1 and inside[high + 1]:
            high += 1
        band = (grid[low].rate, grid[high].rate)
    return ChosenRate(grid[best].rate, grid[best].mean, 0 < best < len(grid) - 1, error, band)


def surviving_rates(points: Sequence[RatePoint], *, lower_is_better: bool = False) -> tuple[float, ...]:
    """The rates that get another seed: one rung of successive halving (Jamieson and Talwalkar, 2016), over seeds.

    Of n rates with the most seeds so far the better ``ceil(n / 2)`` by mean survive, equal ones from the lowest up, and
    besides them always both neighbours of the best: whether the optimum is interior is judged by them, and with them
    the pilot's spread is measured. Ascending.
    """
    grid = _ascending(points)
    best = _best(grid, lower_is_better)
    most = len(grid[best].scores)
    running = [index for index, point in enumerate(grid) if len(point.scores) == most]
    sign = 1 if lower_is_better else -1
    ranked = sorted(running, key=lambda index: (sign * grid[index].mean, grid[index].rate))
    kept = {*ranked[: math.ceil(len(running) / 2)], best - 1, best, best + 1}
    return tuple(point.rate for index, point in enumerate(grid) if index in kept)


def lagging_neighbours(points: Sequence[RatePoint], *, lower_is_better: bool = False) -> tuple[float, ...]:
    """Neighbours of the best rate with fewer seeds than it: to be caught up, and the choice made anew, before it counts
    as interior. A later seed may move the optimum next to a rate that was dropped.
    """
    grid = _ascending(points)
    best = _best(grid, lower_is_better)
    near = [index for index in (best - 1, best + 1) if 0 <= index < len(grid)]
    return tuple(grid[index].rate for index in near if len(grid[index].scores) < len(grid[best].scores))


def cells_near_best(points: Sequence[RatePoint], *, lower_is_better: bool = False) -> list[tuple[float, ...]]:
    """The scores of the best rate and of its two neighbours, a tuple each: what `pilot_spread` takes of one method on
    one task. Without rates of one seed, which know no spread, and without those where a run collapsed, whose spread is
    the distance between two kinds of run. None may be left.
    """
    grid = _ascending(points)
    best = _best(grid, lower_is_better)
    near = grid[max(0, best - 1) : best + 2]
    return [point.scores for point in near if len(point.scores) > 1 and not point.collapsed]


@dataclass(frozen=True)
class Growth:
    """How the grid goes on.

    Attributes:
        edge: the end at which the optimum is; None where it is interior.
        rates: to be tried next; none where the optimum is interior or the grid may not grow any more.
    """

    edge: Literal["low", "high"] | None
    rates: tuple[float, ...]

    @property
    def exhausted(self) -> bool:
        """Whether the optimum stays at an edge: to be said wherever its rate is used."""
        return self.edge is not None and not self.rates


def grow_grid(points: Sequence[RatePoint], *, grown: int, most: int = 4, lower_is_better: bool = False) -> Growth:
    """The next rate beyond the grid's end where the optimum is, by the same factor; until `most` have been added.

    One at a time, and the choice is made anew with it. A grid of one rate has no factor: it is a given rate, not a
    choice, and neither grows nor has an edge.

    Args:
        grown: rates added so far.
        most: that may be added in all.
    """
    grid = _ascending(points)
    best = _best(grid, lower_is_better)
    if len(grid) == 1 or 0 < best < len(grid) - 1:
        return Growth(None, ())
    edge: Literal["low", "high"] = "low" if best == 0 else "high"
    if grown >= most:
        return Growth(edge, ())
    end, inner = (grid[0].rate, grid[1].rate) if edge == "low" else (grid[-1].rate, grid[-2].rate)
    return Growth(edge, (_rounded(end * (end / inner)),))


def collapsed_share(points: Sequence[RatePoint]) -> float:
    """Collapsed runs over all runs that were tried."""
    return sum(point.collapsed for point in points) / sum(len(point.scores) for point in points)


def expected_best(
    selection: Sequence[float], reported: Sequence[float], *, most: int | None = None, lower_is_better: bool = False
) -> tuple[float, ...]:
    """The expected `reported` score of the best of 1, 2, ... `most` rates drawn at random, best by the `selection`
    score.

    What tuning with k trials yields (Dodge et al., Show Your Work, EMNLP 2019, with the chosen rate's score by another
    split). Rates are drawn independently from a log-uniform prior, of which n points of equal factors are the cells, so
    with replacement. With the rates ordered by selection score, the best one last, the best of k has rank j with
    probability ``(j / n)^k - ((j - 1) / n)^k``; equal selection scores share theirs alike. Exact, no sampling.

    Args:
        selection: by rate, what chooses.
        reported: by rate, what is reported. Where it is `selection` itself, the curve is optimistic.
        most: as many as there are rates by default.
    """
    if not selection or len(selection) != len(reported):
        raise ValueError("one selection score and one reported score for each rate")
    chosen = np.asarray(selection, dtype=np.float64) * (-1 if lower_is_better else 1)
    values, group = np.unique(chosen, return_inverse=True)
    sizes = np.bincount(group, minlength=len(values))
    means = np.bincount(group, weights=np.asarray(reported, dtype=np.float64), minlength=len(values)) / sizes
    above = np.cumsum(sizes) / len(chosen)
    draws = np.arange(1, (most or len(chosen)) + 1)[:, None]
    weights = above**draws - (above - sizes / len(chosen)).clip(min=0.0) ** draws
    return tuple((weights @ means).tolist())


def _ascending(points: Sequence[RatePoint]) -> list[RatePoint]:
    """By rate. Raises ValueError for none, a rate twice or not above 0, one without scores, or a score not finite."""
    grid = sorted(points, key=lambda point: point.rate)
    if not grid or len({point.rate for point in grid}) < len(grid) or grid[0].rate <= 0:
        raise ValueError("rates must be above 0, each named once")
    if not all(point.scores and all(math.isfinite(score) for score in point.scores) for point in grid):
        raise ValueError("every rate needs scores, and finite ones")
    return grid


def _best(grid: Sequence[RatePoint], lower_is_better: bool) -> int:
    most = max(len(point.scores) for point in grid)
    full = [index for index, point in enumerate(grid) if len(point.scores) == most]
    best = full[0]
    for index in full[1:]:
        if _better(grid[index], grid[best], lower_is_better):
            best = index
    return best


def _better(one: RatePoint, other: RatePoint, lower_is_better: bool) -> bool:
    return one.mean < other.mean if lower_is_better else one.mean > other.mean


def _standard_error(cells: Sequence[Sequence[float]], seeds: int) -> float | None:
    degrees = sum(len(cell) - 1 for cell in cells)
    if not degrees:
        return None
    squares = math.fsum((score - math.fsum(cell) / len(cell)) ** 2 for cell in cells for score in cell)
    return math.sqrt(squares / degrees / seeds)


def _rounded(rate: float) -> float:
    return float(f"{rate:.6g}")
