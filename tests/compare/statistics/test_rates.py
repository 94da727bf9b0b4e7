"""Choosing a rate: the best, its band, halving, the growing grid, and what k trials would have found."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora_cli.compare.statistics import (
    RatePoint,
    cells_near_best,
    choose_rate,
    collapsed_share,
    expected_best,
    grow_grid,
    lagging_neighbours,
    pilot_spread,
    rate_grid,
    surviving_rates,
)

GRID = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2)


def curve(*means: float, spread: float = 0.1) -> list[RatePoint]:
    """Two seeds a rate, `spread` apart."""
    return [RatePoint(rate, (mean - spread / 2, mean + spread / 2)) for rate, mean in zip(GRID, means, strict=False)]


def flipped(points: list[RatePoint]) -> list[RatePoint]:
    """The same as a loss."""
    return [RatePoint(point.rate, tuple(-score for score in point.scores), point.collapsed) for point in points]


def test_a_grid_of_equal_factors() -> None:
    grid = rate_grid(1e-4, 1e-2, 8)
    assert (grid[0], grid[-1], len(grid)) == (1e-4, 1e-2, 8)
    assert [high / low for low, high in pairwise(grid)] == pytest.approx([100 ** (1 / 7)] * 7, rel=1e-5)
    assert all(rate == float(f"{rate:.6g}") for rate in grid)
    assert rate_grid(3e-4, 3e-4, 1) == (3e-4,)


def test_the_best_and_its_band_by_hand() -> None:
    """Two seeds 0.1 apart in each of three cells: the pooled deviation is 0.1 / sqrt(2), the error of a mean 0.05."""
    found = choose_rate(curve(0.60, 0.76, 0.79, 0.80, 0.751, 0.70, 0.79))
    assert (found.rate, found.interior) == (8e-4, True)
    assert found.mean == pytest.approx(0.80)
    assert found.standard_error == pytest.approx(0.05)
    assert found.band == (2e-4, 1.6e-3), "0.79 at the far end is within reach, and beyond a valley"


def test_a_loss_is_chosen_by_its_least() -> None:
    points = curve(0.60, 0.76, 0.79, 0.80, 0.751, 0.70)
    gain, loss = choose_rate(points), choose_rate(flipped(points), lower_is_better=True)
    assert (loss.rate, loss.band, loss.standard_error) == (gain.rate, gain.band, gain.standard_error)
    assert loss.mean == -gain.mean


def test_a_collapsed_run_widens_no_band() -> None:
    points = curve(0.60, 0.74, 0.80, 0.74)
    points.append(RatePoint(1.6e-3, (0.5, 0.9), collapsed=1))
    collapsed = [*points[:3], RatePoint(8e-4, (0.5, 0.98), collapsed=1), *points[4:]]
    assert choose_rate(points).standard_error == pytest.approx(0.05)
    assert choose_rate(collapsed).standard_error == pytest.approx(0.05)
    assert choose_rate(collapsed).band == (4e-4, 4e-4)
    blind = [*points[:3], RatePoint(8e-4, (0.5, 0.98)), *points[4:]]
    assert choose_rate(blind).standard_error == pytest.approx(math.sqrt((0.005 + 0.1152 + 0.005) / 3 / 2))


def test_the_pilots_cells_are_those_near_the_best() -> None:
    points = curve(0.5, 0.6, 0.7, 0.6, 0.5)
    assert cells_near_best(points) == [point.scores for point in points[1:4]]
    assert cells_near_best(flipped(points), lower_is_better=True) == [point.scores for point in flipped(points)[1:4]]
    points[1] = RatePoint(2e-4, (0.6,))
    points[3] = RatePoint(8e-4, (0.1, 0.6), collapsed=1)
    assert cells_near_best(points) == [points[2].scores]
    assert cells_near_best([RatePoint(1e-4, (0.5, 0.5), collapsed=2)]) == []
    margin = pilot_spread({"rte": cells_near_best(curve(0.5, 0.6, 0.7, 0.6, 0.5))})
    assert (margin.sd, margin.degrees) == (pytest.approx(0.1 / math.sqrt(2)), pytest.approx(3))


def test_one_seed_has_no_band() -> None:
    found = choose_rate([RatePoint(1e-4, (0.5,)), RatePoint(2e-4, (0.6,))])
    assert (found.rate, found.standard_error, found.band) == (2e-4, None, None)


def test_a_rate_with_fewer_seeds_cannot_win() -> None:
    points = [*curve(0.7, 0.8, 0.75), RatePoint(8e-4, (0.99,))]
    assert choose_rate(points).rate == 2e-4


def test_equal_rates_give_the_lowest() -> None:
    """Accuracies of some hundred examples are often equal, but for rounding: 0.1 + 0.7 is less than 0.3 + 0.5."""
    assert 0.1 + 0.7 < 0.3 + 0.5
    points = [RatePoint(4e-4, (0.3, 0.5)), RatePoint(2e-4, (0.1, 0.7)), RatePoint(1e-4, (0.1, 0.1))]
    assert choose_rate(points).rate == 2e-4
    assert choose_rate(flipped(points), lower_is_better=True).rate == 2e-4
    assert choose_rate(points, lower_is_better=True).rate == 1e-4
    pairs = [RatePoint(rate, (0.1, 0.7) if rate < 1e-3 else (0.3, 0.5)) for rate in GRID]
    assert surviving_rates(pairs) == GRID[:4]


def test_a_band_reaches_over_a_rate_that_one_seed_found_better() -> None:
    points = [
        *curve(0.7, 0.8, 0.79),
        RatePoint(8e-4, (0.99,)),
        RatePoint(1.6e-3, (0.78, 0.78)),
        RatePoint(3.2e-3, (0.6,)),
    ]
    assert choose_rate(points).rate == 2e-4
    assert choose_rate(points).band == (2e-4, 1.6e-3)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.65), GRID[4:]),
        ((0.1, 0.2, 0.8, 0.2, 0.5, 0.6, 0.7, 0.65), (*GRID[1:4], *GRID[5:])),  # both neighbours, though worse than half
        ((0.9, 0.2, 0.3, 0.8), (*GRID[:2], GRID[3])),  # at an edge there is one neighbour
        ((0.5, 0.5, 0.5, 0.5, 0.5), GRID[:3]),  # equal: the lowest
        ((0.5, 0.6, 0.5), GRID[:3]),  # fewer than three are no choice
        ((0.5,), GRID[:1]),
    ],
)
def test_the_better_half_and_the_neighbours_survive(means: tuple[float, ...], expected: tuple[float, ...]) -> None:
    points = curve(*means)
    assert surviving_rates(points) == expected
    assert surviving_rates(flipped(points)[::-1], lower_is_better=True) == expected


def test_a_later_rung_halves_those_still_running() -> None:
    points = curve(0.5, 0.6, 0.7, 0.8, 0.75, 0.72, 0.5, 0.4)
    points[0] = RatePoint(GRID[0], (0.99,))
    points[7] = RatePoint(GRID[7], (0.3,))
    assert surviving_rates(points) == GRID[2:6], "three of six, and the best one's neighbour; none that was dropped"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_survivors_hold_the_best_and_what_is_beside_it(means: list[int]) -> None:
    points = curve(*map(float, means))
    kept = surviving_rates(points)
    best = GRID.index(choose_rate(points).rate)
    assert set(GRID[max(0, best - 1) : best + 2]) & {point.rate for point in points} <= set(kept)
    assert math.ceil(len(means) / 2) <= len(kept) <= math.ceil(len(means) / 2) + 2
    dropped = [point.mean for point in points if point.rate not in kept]
    ranked = sorted(means, reverse=True)
    assert all(mean <= ranked[math.ceil(len(means) / 2) - 1] for mean in dropped)


def test_a_neighbour_dropped_too_early_is_caught_up() -> None:
    """The second seed has moved the optimum from the third rate beside the fifth, which halving had dropped."""
    points = [RatePoint(rate, (0.5, 0.5)) for rate in GRID[:3]]
    points += [RatePoint(GRID[3], (0.7, 0.9)), RatePoint(GRID[4], (0.4,))]
    assert choose_rate(points).rate == GRID[3]
    assert lagging_neighbours(points) == (GRID[4],)
    assert lagging_neighbours([*points[:4], RatePoint(GRID[4], (0.4, 0.4))]) == ()


@pytest.mark.parametrize(
    ("means", "edge", "added"),
    [
        ((0.5, 0.6, 0.7), "high", 8e-4),
        ((0.7, 0.6, 0.5), "low", 5e-5),
        ((0.7, 0.7, 0.7), "low", 5e-5),
        ((0.5, 0.7, 0.6), None, None),
        ((0.5,), None, None),
    ],
)
def test_a_grid_grows_where_its_best_is_at_an_edge(
    means: tuple[float, ...], edge: str | None, added: float | None
) -> None:
    points = curve(*means)
    for given_points, lower in ((points, False), (flipped(points), True)):
        found = grow_grid(given_points, grown=0, most=2, lower_is_better=lower)
        assert found.edge == edge
        assert found.rates == (() if added is None else (pytest.approx(added),))
        assert not found.exhausted
        last = grow_grid(given_points, grown=2, most=2, lower_is_better=lower)
        assert (last.edge, last.rates, last.exhausted) == (edge, (), edge is not None)


def test_a_grown_grid_keeps_its_factor() -> None:
    rates = list(rate_grid(1e-4, 1e-2, 8))
    for grown in range(4):
        points = [RatePoint(rate, (rate,)) for rate in rates]
        rates += grow_grid(points, grown=grown).rates
    assert [high / low for low, high in pairwise(rates)] == pytest.approx([100 ** (1 / 7)] * 11, rel=1e-4)
    assert grow_grid([RatePoint(rate, (rate,)) for rate in rates], grown=4).exhausted


def test_the_share_of_collapsed_runs() -> None:
    points = [RatePoint(1e-4, (0.5, 0.5, 0.5)), RatePoint(1e-3, (0.5, 0.7), collapsed=1), RatePoint(1e-2, (0.5,), 1)]
    assert collapsed_share(points) == pytest.approx(2 / 6)


def every_draw(selection: list[float], reported: list[float], k: int, sign: int) -> float:
    """The mean over all n^k draws of k rates; equal selection scores are one as likely as the other."""
    found = []
    for drawn in product(range(len(selection)), repeat=k):
        best = max(sign * selection[one] for one in drawn)
        found.append(np.mean([reported[one] for one in drawn if sign * selection[one] == best]))
    return float(np.mean(found))


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("selection", [[0.1, 0.5, 0.3, 0.4], [0.2, 0.5, 0.5, 0.2], [0.3, 0.3, 0.3, 0.3]])
def test_the_best_of_k_is_the_mean_over_all_draws(selection: list[float], lower_is_better: bool) -> None:
    reported = [0.15, 0.45, 0.5, 0.2]
    sign = -1 if lower_is_better else 1
    found = expected_best(selection, reported, lower_is_better=lower_is_better)
    assert found == pytest.approx([every_draw(selection, reported, k, sign) for k in (1, 2, 3, 4)])


def test_many_trials_find_the_best() -> None:
    found = expected_best([0.1, 0.9, 0.5], [0.2, 0.6, 0.7], most=200)
    assert len(found) == 200
    assert found[0] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.6), "the reported score of the selected rate, which is not the highest"
    with pytest.raises(ValueError, match="each rate"):
        expected_best([0.1], [0.1, 0.2])


@pytest.mark.parametrize(
    "points",
    [
        [],
        [RatePoint(0.0, (1.0,))],
        [RatePoint(1e-3, (1.0,)), RatePoint(1e-3, (2.0,))],
        [RatePoint(1e-3, ())],
        [RatePoint(1e-3, (math.nan,))],
    ],
)
def test_points_that_make_no_grid_are_refused(points: list[RatePoint]) -> None:
    for use in (choose_rate, surviving_rates, lagging_neighbours):
        with pytest.raises(ValueError, match="rate"):
            use(points)
