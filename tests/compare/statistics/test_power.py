"""Power against simulation, against textbook integrals, and against what published tables and our reference say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from dora_cli.compare.statistics import (
    detectable_difference,
    difference_sd,
    planning_level,
    power_of_difference,
    power_of_equivalence,
    reach,
    seeds_for_difference,
    seeds_for_equivalence,
)

DRAWN = 40_000
PIECES = 40_001


def within(share: float) -> float:
    """Four standard errors of a share found in `DRAWN` experiments."""
    return 4 * math.sqrt(share * (1 - share) / DRAWN)


@pytest.mark.parametrize(
    ("seeds", "effect", "alpha"), [(3, 2.0, 0.05), (5, -1.0, 0.05), (10, 1.0, 0.05 / 3), (10, 0.0, 0.05)]
)
def test_power_of_a_difference_is_what_simulation_finds(seeds: int, effect: float, alpha: float) -> None:
    sample = np.random.default_rng(seeds).normal(effect, size=(DRAWN, seeds))
    found = float((stats.ttest_1samp(sample, 0.0, axis=-1).pvalue <= alpha).mean())
    promised = power_of_difference(seeds, effect, alpha)
    assert found == pytest.approx(promised, abs=within(promised))


@pytest.mark.parametrize("seeds", [2, 3, 10, 50])
@pytest.mark.parametrize("effect", [0.0, 0.5, 3.0, 50.0])
def test_power_of_a_difference_is_an_integral_over_the_samples_spread(seeds: int, effect: float) -> None:
    """Also where scipy's noncentral t gives up on the far tail."""
    critical, root = stats.t.ppf(0.975, seeds - 1), math.sqrt(seeds)
    spread = stats.chi(seeds - 1, scale=1 / math.sqrt(seeds - 1))

    s = np.linspace(0, spread.isf(1e-13), PIECES)
    tails = stats.norm.sf(critical * s - root * effect) + stats.norm.cdf(-critical * s - root * effect)
    brute = integrate.simpson(tails * spread.pdf(s), x=s)
    assert power_of_difference(seeds, effect) == pytest.approx(brute, abs=1e-8)


@pytest.mark.parametrize(
    ("seeds", "margin", "effect", "alpha"),
    [
        (3, 1.0, 0.0, 0.05),
        (5, 1.5, 0.5, 0.05),
        (10, 1.0, 0.0, 0.05),
        (10, 0.5, 0.0, 0.05),
        (10, 1.0, 1.0, 0.05),
        (20, 0.7, 0.0, 0.05 / 3),
    ],
)
def test_power_of_equivalence_is_what_simulation_finds(seeds: int, margin: float, effect: float, alpha: float) -> None:
    sample = np.random.default_rng(seeds).normal(effect, size=(DRAWN, seeds))
    above = stats.ttest_1samp(sample, -margin, axis=-1, alternative="greater").pvalue
    below = stats.ttest_1samp(sample, margin, axis=-1, alternative="less").pvalue
    found = float((np.maximum(above, below) <= alpha).mean())
    promised = power_of_equivalence(seeds, margin, effect, alpha)
    assert found == pytest.approx(promised, abs=within(promised))


@pytest.mark.parametrize("margin", [0.05, 1.0, 1000.0])
@pytest.mark.parametrize(("seeds", "alpha"), [(2, 0.05), (2, 0.001), (10, 0.05), (1000, 0.05)])
def test_the_quadrature_is_fine_enough(seeds: int, alpha: float, margin: float) -> None:
    """Against Simpson's rule over very many pieces."""
    critical, root = stats.t.ppf(1 - alpha, seeds - 1), math.sqrt(seeds)
    spread = stats.chi(seeds - 1, scale=1 / math.sqrt(seeds - 1))

    low, high = spread.ppf(1e-13), min(spread.isf(1e-13), root * margin / critical)
    s = np.linspace(low, max(low, high), PIECES)
    brute = integrate.simpson((2 * stats.norm.cdf(root * margin - critical * s) - 1) * spread.pdf(s), x=s)
    assert power_of_equivalence(seeds, margin, alpha=alpha) == pytest.approx(brute, abs=1e-8)


@pytest.mark.parametrize(
    ("seeds", "independent", "correlated"),
    [(3, 4.6, 3.3), (5, 2.4, 1.7), (8, 1.6, 1.2), (10, 1.4, 1.0), (16, 1.06, 0.75), (20, 0.93, 0.66), (30, 0.75, 0.53)],
)
def test_detectable_differences_in_units_of_one_runs_spread(seeds: int, independent: float, correlated: float) -> None:
    """The protocol's table, to its digits: runs of two methods independent, or with a correlation of a half."""
    digits = 0.005 if seeds > 10 else 0.05
    for correlation, expected in ((0.0, independent), (0.5, correlated)):
        found = detectable_difference(seeds) * difference_sd(1.0, correlation)
        assert found == pytest.approx(expected, abs=digits + 1e-9)


def test_equivalence_at_ten_seeds() -> None:
    """Four times of five with a margin of one standard deviation of the difference, one of fifteen with half of it."""
    assert power_of_equivalence(10, 1.0) == pytest.approx(0.795, abs=0.0005)
    assert power_of_equivalence(10, 0.5) == pytest.approx(0.0655, abs=0.0005)


def test_a_textbooks_sample_size() -> None:
    """Cohen's medium effect of 0.5, paired, two-sided 5 %, 80 %: 34 pairs; a large one of 0.8: 15."""
    assert (seeds_for_difference(0.5), seeds_for_difference(0.8)) == (34, 15)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("size", [0.3, 1.0, 4.0, 100.0])
def test_the_seeds_needed_are_the_fewest(size: float, alpha: float) -> None:
    for needed, power in (
        (seeds_for_difference(size, alpha=alpha), lambda seeds: power_of_difference(seeds, size, alpha)),
        (seeds_for_equivalence(size, alpha=alpha), lambda seeds: power_of_equivalence(seeds, size, alpha=alpha)),
    ):
        assert needed is not None
        assert power(needed) >= 0.8
        assert needed == 2 or power(needed - 1) < 0.8


def test_what_no_number_of_seeds_shows() -> None:
    assert seeds_for_difference(1e-4) is None
    assert seeds_for_equivalence(1e-4) is None
    assert (power_of_difference(1, 9.0), power_of_equivalence(1, 9.0)) == (0.0, 0.0)
    assert detectable_difference(1) == math.inf
    assert reach(1).detectable is None


def test_what_is_detectable_is_found_with_the_power_asked_for() -> None:
    for power in (0.5, 0.8, 0.99):
        assert power_of_difference(7, detectable_difference(7, power, 0.01), 0.01) == pytest.approx(power)


def test_reach_in_standard_deviations_and_in_points() -> None:
    plain = reach(10, comparisons=3)
    assert plain.level == planning_level(3) == pytest.approx(0.05 / 3)
    assert plain.detectable == pytest.approx(detectable_difference(10, alpha=0.05 / 3))
    assert (plain.reached, plain.seeds_needed) == (True, None)
    points = reach(10, comparisons=3, difference_sd=2.0, margin=3.0)
    assert points.detectable == pytest.approx(2 * detectable_difference(10, alpha=0.05 / 3))
    assert points.power_at_margin == pytest.approx(power_of_difference(10, 1.5, 0.05 / 3))
    assert points.power_of_equivalence == pytest.approx(power_of_equivalence(10, 1.5, alpha=0.05 / 3))


@pytest.mark.parametrize("comparisons", [1, 4])
@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0])
def test_the_seeds_needed_reach_and_one_fewer_does_not(margin: float, comparisons: int) -> None:
    needed = reach(2, margin=margin, comparisons=comparisons).seeds_needed
    assert needed is not None
    assert reach(needed, margin=margin, comparisons=comparisons).reached
    assert not reach(needed - 1, margin=margin, comparisons=comparisons).reached


def test_ten_seeds_nearly_reach_a_margin_of_one_standard_deviation() -> None:
    """They find such a difference (80.3 %), and fail to show equality by half a point (79.5 %)."""
    ten = reach(10, margin=1.0)
    assert (ten.seeds_for_difference, ten.seeds_for_equivalence, ten.reached, ten.seeds_needed) == (10, 11, False, 11)
