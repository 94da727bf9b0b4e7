"""The paired difference of two methods: what is estimated, its differences by seed, its test.

The estimand is the mean over the experiment's tasks, which are chosen and not sampled, of the mean over seeds of the
difference between a method's and its baseline's score. Both are run with the same seeds. The tasks are averaged within
a seed first, so that one difference a seed remains,

    D_s = 1/T sum_t o_t (y_ts - x_ts),        o_t = -1 where a lower score is better, else +1,

and seeds, the only thing that is drawn at random, are the only thing that the test counts: S differences, S - 1 degrees
of freedom, however many tasks there are. The conclusion is about these tasks and these splits. Where a comparison is
averaged over settings too, a task at one setting is a "task" here.

Paired t is exact for normal differences, and careful for symmetric ones with heavy tails. It is not for differences
skewed by runs of one side that collapse now and then: of few seeds most experiments see no collapse, and take a method
that collapses in one run of ten for better than it is (`scripts/simulate_comparison.py` measures how often).
Bootstrap-t helps with ceilings and hardly with collapses, which no test of few seeds can know of: show their share
beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from dora_cli.compare.statistics.one_sample import Test, interval, probability

Scores = Mapping[str, Mapping[int, float]]
"""Scores of one method: by task, then by seed. A run that is not there has no entry."""

ROUNDING = 1e-12
"""A share of the largest score: differences of differences smaller than it are rounding, not spread."""


class NoTest(str, Enum):
    """Why there is no test of a mean."""

    FEW_SEEDS = "few-seeds"
    """Fewer than two differences: no spread is known."""
    NO_SPREAD = "no-spread"
    """All differences are equal: a t statistic would be infinite (or 0/0) and its p-value of 0 an artefact of a score
    too coarse to show the spread."""


@dataclass(frozen=True)
class Differences:
    """Paired differences to the baseline, above 0 where the method is better.

    Attributes:
        seeds: those with a run of both methods on every task, in declared order.
        values: `D_s`, one a seed: the mean over the tasks.
        by_task: the differences of each task, one a seed.
        dropped: declared seeds that lack a run, each with the tasks where one is missing on either side.
        resolution: spread up to this is rounding, in the unit of the scores.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    by_task: Mapping[str, tuple[float, ...]]
    dropped: Mapping[int, tuple[str, ...]]
    resolution: float = 0.0


def paired_differences(
    method: Scores,
    baseline: Scores,
    *,
    tasks: Sequence[str],
    seeds: Sequence[int],
    lower_is_better: bool | Mapping[str, bool] = False,
) -> Differences:
    """The differences of `method` to `baseline` over the declared tasks and seeds.

    A seed that lacks a run on any task, on either side, is left out as a whole: the mean over the tasks would otherwise
    be one over other tasks. That is right only for runs lost to something that has nothing to do with the method (a
    killed machine). A run that diverged or collapsed is not missing: it has a score, that of a model which has learnt
    nothing, and to leave it out would flatter its method.

    Args:
        lower_is_better: of the scores, for all tasks or by task.

    Raises:
        ValueError: for no task, a task or seed declared twice, or a score that is not finite.
    """
    if not tasks or len(set(tasks)) < len(tasks) or len(set(seeds)) < len(seeds):
        raise ValueError("a comparison needs tasks and seeds, each named once")
    lower = dict.fromkeys(tasks, lower_is_better) if isinstance(lower_is_better, bool) else lower_is_better
    missing = {
        seed: tuple(task for task in tasks if seed not in method.get(task, {}) or seed not in baseline.get(task, {}))
        for seed in seeds
    }
    kept = tuple(seed for seed in seeds if not missing[seed])
    theirs = np.array([[method[task][seed] for seed in kept] for task in tasks], dtype=np.float64)
    ours = np.array([[baseline[task][seed] for seed in kept] for task in tasks], dtype=np.float64)
    if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        raise ValueError("scores must be finite; a diverged run gets the score of a model that has learnt nothing")
    signs = np.array([-1.0 if lower[task] else 1.0 for task in tasks])[:, None]
    differences = signs * (theirs - ours)
    largest = max(np.abs(theirs).max(initial=0.0), np.abs(ours).max(initial=0.0))
    return Differences(
        seeds=kept,
        values=tuple(differences.mean(axis=0).tolist()),
        by_task={task: tuple(row) for task, row in zip(tasks, differences.tolist(), strict=True)},
        dropped={seed: where for seed, where in missing.items() if where},
        resolution=float(ROUNDING * largest),
    )


@dataclass(frozen=True)
class PairedTest:
    """The test of "the mean difference is 0", with its interval.

    Attributes:
        test: "t" or "bootstrap-t".
        seeds: how many differences there are.
        mean: None without any.
        sd: the differences' standard deviation (n - 1); None for fewer than two.
        low: the lower end of the interval at `level`, not adjusted for the number of comparisons; None where there is
            no test, or where it is unbounded (bootstrap-t with three seeds or fewer).
        high: the upper end.
        level: of the interval.
        p: two-sided, not adjusted; None where there is no test, but 1 where all differences are 0.
        no_test: why not; None where there is one.
    """

    test: Test
    seeds: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    level: float
    p: float | None
    no_test: NoTest | None


def paired_test(values: npt.ArrayLike, *, level: float = 0.95, test: Test = "t", resolution: float = 0.0) -> PairedTest:
    """The two-sided test of a mean difference of 0: `scipy.stats.ttest_1samp` of the differences, which is
    `scipy.stats.ttest_rel` of the scores, or bootstrap-t.

    Args:
        values: paired differences, one a seed.
        resolution: a spread (largest minus smallest) up to this is none; see `Differences`.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean()) if len(sample) else None
    no_test = untestable(sample, resolution)
    sd = None if len(sample) < 2 else 0.0 if no_test else float(sample.std(ddof=1))
    if no_test:
        same = no_test is NoTest.NO_SPREAD and np.abs(sample).max() <= resolution
        return PairedTest(test, len(sample), mean, sd, None, None, level, 1.0 if same else None, no_test)
    low, high = (bounded(float(end)) for end in interval(sample, level, test))
    return PairedTest(test, len(sample), mean, sd, low, high, level, float(probability(sample, test=test)), None)


def untestable(sample: npt.NDArray[np.float64], resolution: float) -> NoTest | None:
    """Why the mean of `sample` cannot be tested; None where it can."""
    if len(sample) < 2:
        return NoTest.FEW_SEEDS
    return NoTest.NO_SPREAD if np.ptp(sample) <= resolution else None


def bounded(end: float) -> float | None:
    """An interval's end; None where it is infinite."""
    return end if math.isfinite(end) else None
