"""Tests of a mean: Student's against scipy, bootstrap-t against one resample at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dora_cli.compare.statistics import one_sample
from dora_cli.compare.statistics.one_sample import Alternative, interval, probability

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_students_test_is_that_of_scipy_on_paired_scores(size: int, alternative: Alternative) -> None:
    random = np.random.default_rng(size)
    method, baseline = random.normal(size=(2, 7, size))
    expected = stats.ttest_rel(method, baseline, axis=-1, alternative=alternative)
    np.testing.assert_allclose(probability(method - baseline, 0.0, alternative), expected.pvalue, rtol=1e-12)
    shifted = stats.ttest_1samp(method, 0.3, axis=-1, alternative=alternative)
    np.testing.assert_allclose(probability(method, 0.3, alternative), shifted.pvalue, rtol=1e-12)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_students_interval_is_that_of_scipy(level: float) -> None:
    sample = np.random.default_rng(4).normal(2.0, 3.0, size=(5, 6))
    expected = stats.ttest_1samp(sample, 0.0, axis=-1).confidence_interval(level)
    low, high = interval(sample, level)
    np.testing.assert_allclose(low, expected.low, rtol=1e-12)
    np.testing.assert_allclose(high, expected.high, rtol=1e-12)


def by_hand(sample: np.ndarray, counts: np.ndarray) -> list[float]:
    """`t*` of each resample, one at a time, by the book."""
    found = []
    for count in counts:
        resample = np.repeat(sample, count.astype(int))
        error = resample.std(ddof=1) / math.sqrt(len(sample))
        gap = resample.mean() - sample.mean()
        found.append(math.copysign(math.inf, gap) if error < 1e-12 else gap / error)
    return found


@pytest.mark.parametrize("size", [4, 10])
def test_bootstrap_t_is_what_the_book_says(size: int) -> None:
    sample = np.random.default_rng(size).exponential(size=size)
    resamples = 199
    drawn = np.sort(by_hand(sample, one_sample.resample_counts(size, resamples)))
    error = sample.std(ddof=1) / math.sqrt(size)
    low, high = interval(sample, 0.95, "bootstrap-t", resamples=resamples)  # (199 + 1) 0.025 = 5 in each tail
    assert low == pytest.approx(sample.mean() - drawn[-5] * error)
    assert high == pytest.approx(sample.mean() - drawn[4] * error)
    t = (sample.mean() - 0.4) / error
    greater, less = (1 + (drawn >= t).sum()) / 200, (1 + (drawn <= t).sum()) / 200
    found = [float(probability(sample, 0.4, way, "bootstrap-t", resamples=resamples)) for way in ALTERNATIVES]
    assert found == pytest.approx([min(1.0, 2 * min(greater, less)), greater, less])


def test_bootstrap_t_does_not_know_units_or_place() -> None:
    sample = np.random.default_rng(2).exponential(size=8)
    low, high = interval(sample, test="bootstrap-t")
    moved = interval(1e-6 * sample + 5, test="bootstrap-t")
    np.testing.assert_allclose(moved, (1e-6 * low + 5, 1e-6 * high + 5), rtol=1e-9)
    mirrored = interval(-sample, test="bootstrap-t")
    assert mirrored == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_bootstrap_t_rejects_where_its_interval_ends(alternative: Alternative) -> None:
    """By its own p and interval: just inside it does not, just outside it does."""
    sample = np.random.default_rng(7).exponential(size=9)
    level = 0.95 if alternative == "two-sided" else 0.9
    low, high = (float(end) for end in interval(sample, level, "bootstrap-t"))
    gap = 1e-9
    inside, outside = [], []
    if alternative != "less":
        inside.append(low + gap)
        outside.append(low - gap)
    if alternative != "greater":
        inside.append(high - gap)
        outside.append(high + gap)
    for value in inside:
        assert probability(sample, value, alternative, "bootstrap-t") > 0.05
    for value in outside:
        assert probability(sample, value, alternative, "bootstrap-t") <= 0.05


def test_bootstrap_t_of_three_values_bounds_nothing() -> None:
    """3 of the 27 equally likely resamples repeat one value: more than 2.5 % on the side of at least one end."""
    low, high = interval([1.0, 2.0, 4.0], test="bootstrap-t")
    assert (low, high) == (-math.inf, math.inf)
    assert probability([1.0, 1.01, 1.02], test="bootstrap-t") > 0.05


def test_the_bootstrap_draws_from_a_generator_of_its_own() -> None:
    sample = np.random.default_rng(1).normal(size=6)
    np.random.seed(0)
    first = interval(sample, test="bootstrap-t")
    one_sample.resample_counts.cache_clear()
    np.random.seed(1)
    again = interval(sample, test="bootstrap-t")
    assert first == again
    assert np.random.random() == np.random.RandomState(1).random_sample()
