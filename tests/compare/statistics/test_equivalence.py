"""Two one-sided tests against scipy, and the margin against its closed form and its sampling distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dora_cli.compare.statistics import NoTest, Test, equivalence_test, pilot_spread

TESTS: tuple[Test, ...] = ("t", "bootstrap-t")


def test_both_one_sided_tests_are_those_of_scipy() -> None:
    sample = np.random.default_rng(3).normal(0.2, 1.0, size=10)
    found = equivalence_test(sample, 1.1)
    above = stats.ttest_1samp(sample, -1.1, alternative="greater")
    below = stats.ttest_1samp(sample, 1.1, alternative="less")
    assert found.p_non_inferior == pytest.approx(above.pvalue)
    assert found.p_non_superior == pytest.approx(below.pvalue)
    assert found.p == pytest.approx(max(above.pvalue, below.pvalue))
    ends = stats.ttest_1samp(sample, 0.0).confidence_interval(0.9)
    assert (found.level, found.low, found.high) == pytest.approx((0.9, ends.low, ends.high))


@pytest.mark.parametrize("test", TESTS)
def test_equivalent_is_an_interval_inside_the_margin(test: Test) -> None:
    random = np.random.default_rng(5)
    outcomes = set()
    for _ in range(60):
        found = equivalence_test(random.normal(0.3, 1.0, size=12), 0.9, test=test)
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        assert found.p_non_inferior is not None
        inside = found.low > -0.9 and found.high < 0.9
        assert (found.p <= 0.05) == inside
        assert (found.p_non_inferior <= 0.05) == (found.low > -0.9)
        outcomes.add(inside)
    assert outcomes == {True, False}


def test_without_spread_there_is_no_test() -> None:
    found = equivalence_test([0.0, 0.0, 0.0], 0.5)
    assert (found.p, found.p_non_inferior, found.low, found.no_test) == (None, None, None, NoTest.NO_SPREAD)
    assert equivalence_test([0.1], 0.5).no_test is NoTest.FEW_SEEDS


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_a_margin_must_be_one(margin: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        equivalence_test([0.1, 0.2], margin)


def test_the_pilots_spread_by_hand() -> None:
    """Two tasks. The first: cells (1, 3) and (0, 1, 2), squares 2 + 2 over 1 + 2 degrees; a cell of one run says
    nothing. The second: one cell (0, 2), 2 over 1.
    """
    found = pilot_spread({"a": [[1, 3], [0, 1, 2], [9]], "b": [[0, 2]]})
    first, second = 4 / 3, 2.0
    assert found.by_task == {"a": pytest.approx(math.sqrt(first)), "b": pytest.approx(math.sqrt(second))}
    assert found.sd == pytest.approx(math.sqrt(first + second) / 2)
    assert found.degrees == pytest.approx((first + second) ** 2 / (first**2 / 3 + second**2 / 1))
    chi = stats.chi2(found.degrees)
    assert found.low == pytest.approx(found.sd * math.sqrt(found.degrees / chi.ppf(0.975)))
    assert found.high == pytest.approx(found.sd * math.sqrt(found.degrees / chi.ppf(0.025)))


def test_equal_tasks_pool_like_one_variance() -> None:
    """With the same variance and degrees in each task Satterthwaite's degrees are all of them."""
    found = pilot_spread({task: [[0, 1], [5, 6]] for task in "abc"})
    assert found.degrees == pytest.approx(6)
    assert found.sd == pytest.approx(math.sqrt(0.5 / 3))


def test_the_margin_is_the_spread_of_a_seeds_mean_over_tasks() -> None:
    """With 800 pilots of two seeds, three cells, unlike tasks: its square is unbiased, its interval covers."""
    random = np.random.default_rng(8)
    spreads = {"a": 1.0, "b": 3.0, "c": 0.5}
    truth = math.sqrt(sum(sd**2 for sd in spreads.values())) / 3
    found = [
        pilot_spread({task: random.normal(cell_mean(random), sd, (3, 2)).tolist() for task, sd in spreads.items()})
        for _ in range(800)
    ]
    squares = [pilot.sd**2 for pilot in found]
    assert np.mean(squares) == pytest.approx(truth**2, abs=4 * np.std(squares) / math.sqrt(800))
    covered = np.mean([pilot.low <= truth <= pilot.high for pilot in found])
    assert covered == pytest.approx(0.95, abs=0.03)  # Satterthwaite's is an approximation


def cell_mean(random: np.random.Generator) -> np.ndarray:
    """One mean for each of three cells: rates and methods differ, which is no spread over seeds."""
    return random.normal(0, 5, size=(3, 1))


def test_runs_without_spread_make_no_margin() -> None:
    found = pilot_spread({"a": [[0.5, 0.5]]})
    assert (found.sd, found.degrees, found.low, found.high) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("cells", [{}, {"a": [[1.0]]}, {"a": [[1.0, 2.0]], "b": []}, {"a": [[1.0, math.nan]]}])
def test_a_pilot_needs_runs_that_differ_in_their_seed(cells: dict[str, list[list[float]]]) -> None:
    with pytest.raises(ValueError, match="pilot runs"):
        pilot_spread(cells)
