"""Equivalence and non-inferiority of a method and its baseline, and the margin that says what "equal" means.

Two one-sided tests (Schuirmann, 1987): with margin M the hypotheses ``D <= -M`` and ``D >= M`` are each tested at level
a; both rejected, the methods are equivalent. p is the larger of the two, and ``p <= a`` exactly where the interval at
``1 - 2a`` (90 % for 5 %) lies inside ``(-M, M)``. Rejecting ``D <= -M`` alone is non-inferiority.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from dora_cli.compare.statistics.one_sample import Test, interval, probability
from dora_cli.compare.statistics.paired import NoTest, bounded, untestable


@dataclass(frozen=True)
class EquivalenceTest:
    """Two one-sided tests of a mean difference against a margin; p-values not adjusted, None where there is no test.

    Attributes:
        margin: above 0, in the unit of the differences.
        p_non_inferior: of "worse by the margin or more".
        p_non_superior: of "better by the margin or more".
        p: of "different by the margin or more": the larger of the two.
        low: lower end of the interval at `level`.
        high: upper end.
        level: ``1 - 2 alpha``.
        no_test: why there is none.
    """

    margin: float
    p_non_inferior: float | None
    p_non_superior: float | None
    p: float | None
    low: float | None
    high: float | None
    level: float
    no_test: NoTest | None


def equivalence_test(
    values: npt.ArrayLike, margin: float, *, alpha: float = 0.05, test: Test = "t", resolution: float = 0.0
) -> EquivalenceTest:
    """Both one-sided tests of the paired differences `values` against ``-margin`` and ``margin``.

    Raises:
        ValueError: for a margin that is not above 0.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"a margin of {margin}: it must be above 0")
    sample = np.asarray(values, dtype=np.float64)
    level = 1 - 2 * alpha
    no_test = untestable(sample, resolution)
    if no_test:
        return EquivalenceTest(margin, None, None, None, None, None, level, no_test)
    above = float(probability(sample, -margin, "greater", test))
    below = float(probability(sample, margin, "less", test))
    low, high = (bounded(float(end)) for end in interval(sample, level, test))
    return EquivalenceTest(margin, above, below, max(above, below), low, high, level, None)


@dataclass(frozen=True)
class PilotSpread:
    """The spread of one run over seeds, known from the runs that chose the rates.

    Attributes:
        sd: standard deviation over seeds of one run's mean over the tasks: the margin.
        by_task: the pooled standard deviation of a run on each task.
        degrees: Satterthwaite's degrees of freedom of `sd`.
        low: lower end of the 95 % interval of the standard deviation.
        high: upper end.
    """

    sd: float
    by_task: Mapping[str, float]
    degrees: float
    low: float
    high: float


def pilot_spread(cells: Mapping[str, Sequence[Sequence[float]]]) -> PilotSpread:
    """The margin of equivalence made of the tuning runs: what changing nothing but the seed does to one run.

    `cells` holds, by task, the scores of each cell: runs that differ in their seed alone, so those of one (task,
    method, rate). Take those at each method's chosen rate and beside it, without a collapsed run (`cells_near_best`).
    Cells of one seed say nothing and are passed over. Within a task the variances are pooled, each with its degrees of
    freedom,

        s_t^2 = sum_cells sum_s (y_s - mean)^2 / sum_cells (n - 1),

    and the experiment averages a seed over its T tasks, whose runs are taken as independent, so that

        margin = sqrt(sum_t s_t^2) / T,    degrees = (sum_t s_t^2)^2 / sum_t (s_t^4 / df_t)      (Satterthwaite, 1946).

    Why this stands: the margin comes from other runs (other seeds, a held-out part of the training split) than the test
    does. Variances within cells are independent of the means that chose the
    rates (normal scores), so that choosing does not bias them; halving, which gives a second seed to rates whose first
    did well, does by some 3 % where all rates are equally good, and less elsewhere. The margin is in the metric's own
    units and means something: a mean difference below it is smaller than what a user typically sees by running the
    *same* method with another seed. It is neither a bound on the paired difference's own standard deviation, which is
    not known before measuring (``margin * sqrt(2 (1 - rho))`` at a correlation of rho between the two methods' runs of
    one seed), nor does it say that smaller differences matter to nobody: where something is known about that, a given
    number is better.

    What it must be read with: few degrees of freedom make it uncertain, which `low` and `high` show; a noisy method
    widens the margin for all (pass the baseline's cells alone to prevent that, at the price of degrees of freedom); and
    held-out parts smaller than the final split make runs spread more than they will.

    Raises:
        ValueError: for no task, a score that is not finite, or a task without a cell of two runs.
    """
    if not cells:
        raise ValueError("no pilot runs")
    variances, degrees = {}, {}
    for task, groups in cells.items():
        samples = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 1]
        if not samples or not all(np.isfinite(sample).all() for sample in samples):
            raise ValueError(f"{task} has no two finite pilot runs that differ in their seed alone")
        degrees[task] = sum(len(sample) - 1 for sample in samples)
        variances[task] = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / degrees[task]
    total = sum(variances.values())
    sd = math.sqrt(total) / len(cells)
    freedom = total**2 / sum(variances[task] ** 2 / degrees[task] for task in cells) if total else 0.0
    low, high = _interval_of_sd(sd, freedom)
    return PilotSpread(sd, {task: math.sqrt(variance) for task, variance in variances.items()}, freedom, low, high)


def _interval_of_sd(sd: float, degrees: float, level: float = 0.95) -> tuple[float, float]:
    """``sd sqrt(df / chi2)`` at both quantiles."""
    if not degrees:
        return sd, sd
    tail = (1 - level) / 2
    return (
        sd * math.sqrt(degrees / float(stats.chi2.ppf(1 - tail, degrees))),
        sd * math.sqrt(degrees / float(stats.chi2.ppf(tail, degrees))),
    )
