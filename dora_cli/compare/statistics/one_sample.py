"""Tests and intervals for the mean of one sample, by Student's t and by bootstrap-t; the sample is the last axis.

Both rest on the studentised mean ``t = (mean - mu) / (s / sqrt(n))``. Student's test compares it with the t
distribution of ``n - 1`` degrees of freedom, which is exact for normal values. Bootstrap-t (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, section 12.5) compares it with the same quantity of resamples of the values
themselves,

    t* = (mean* - mean) / (s* / sqrt(n)),

so that a skewed sample gets a skewed interval ``[mean - t*_(1 - a/2) se, mean - t*_(a/2) se]``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]
Test = Literal["t", "bootstrap-t"]

RESAMPLES = 9999
"""Resamples of the bootstrap: ``(RESAMPLES + 1) a / 2`` is whole for the usual levels, so that interval and p agree."""
RESAMPLING_SEED = 20240527
"""Seed of the bootstrap's own generator: equal values give equal numbers, whatever else draws."""


def probability(
    values: npt.ArrayLike,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
    test: Test = "t",
    *,
    resamples: int = RESAMPLES,
) -> Array:
    """The p-value of "the mean is `null`" against `alternative`, over the last axis: n >= 2 values that are not all
    equal.

    By bootstrap-t one-sided p is ``(1 + #{t* >= t}) / (1 + resamples)`` (``<=`` for "less"), two-sided twice the
    smaller of both: at level a it rejects exactly where `interval` at ``1 - a`` leaves `null` out.
    """
    sample = np.asarray(values, dtype=np.float64)
    if test == "t":
        found = stats.ttest_1samp(sample, popmean=null, axis=-1, alternative=alternative)
        return np.asarray(found.pvalue, dtype=np.float64)
    drawn = _studentised_resamples(sample, resamples)
    t = ((sample.mean(axis=-1) - null) / _standard_error(sample))[..., None]
    greater = (1 + (drawn >= t).sum(axis=-1)) / (1 + resamples)
    less = (1 + (drawn <= t).sum(axis=-1)) / (1 + resamples)
    if alternative == "two-sided":
        both: Array = np.minimum(1.0, 2 * np.minimum(greater, less))
        return both
    one: Array = greater if alternative == "greater" else less
    return one


def interval(
    values: npt.ArrayLike, level: float = 0.95, test: Test = "t", *, resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """The lower and upper end of the two-sided interval of the mean at `level`, over the last axis: n >= 2 values.

    By bootstrap-t an end may be infinite: of n values ``n^(1 - n)`` of the resamples repeat one value and have no
    spread, which for n = 3 is more than a tail of 2.5 %. They count as infinitely far on the side of their mean.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean, error = sample.mean(axis=-1), _standard_error(sample)
    if test == "t":
        reach = stats.t.ppf((1 + level) / 2, sample.shape[-1] - 1) * error
        return mean - reach, mean + reach
    drawn = _studentised_resamples(sample, resamples)
    tail = max(1, round((resamples + 1) * (1 - level) / 2))
    ends = np.partition(drawn, (tail - 1, resamples - tail), axis=-1)
    return mean - ends[..., resamples - tail] * error, mean - ends[..., tail - 1] * error


def _standard_error(sample: Array) -> Array:
    error: Array = sample.std(axis=-1, ddof=1) / np.sqrt(sample.shape[-1])
    return error


def _studentised_resamples(sample: Array, resamples: int) -> Array:
    """`t*` of each resample, shape (..., resamples); +-inf where a resample has no spread, 0 where its mean fits too.

    A resample is how often it holds each value, so that its two moments are products of matrices. Every sample of the
    same size is resampled in the same way.
    """
    size = sample.shape[-1]
    counts = resample_counts(size, resamples)
    centred = sample - sample.mean(axis=-1, keepdims=True)
    scale = np.abs(centred).max(axis=-1, keepdims=True)
    centred = centred / np.where(scale == 0, 1.0, scale)
    mean = centred @ counts.T / size
    variance = (centred**2 @ counts.T / size - mean**2) * size / (size - 1)
    variance[variance < 1e-12] = 0.0  # rounding, with values of at most 1
    with np.errstate(divide="ignore", invalid="ignore"):
        t: Array = mean / np.sqrt(variance / size)
    return np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf)


@lru_cache(maxsize=16)
def resample_counts(size: int, resamples: int) -> Array:
    """How often each of `size` values is in each of `resamples` resamples: shape (resamples, size)."""
    generator = np.random.default_rng(RESAMPLING_SEED)
    drawn: Array = generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
    return drawn
