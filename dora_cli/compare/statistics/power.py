"""What a number of seeds can show: power, smallest detectable difference, seeds needed.

Everything is in standard deviations of the paired difference over seeds unless one is given (``difference_sd``). That
is how a plan is read before anything has run; after the tuning the pilot's spread turns it into the metric's units.
Values are exact for normal differences.

With several comparisons, plan at the level `planning_level`: Holm's correction asks at most that of any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import integrate, optimize, special, stats

from dora_cli.compare.statistics.one_sample import Array

MOST_SEEDS = 100_000
"""Where the search for the seeds needed ends."""
NODES = 256
"""Points of the Gauss-Legendre quadrature of a smooth integrand over at most 14 of its standard deviations."""


def planning_level(comparisons: int, alpha: float = 0.05) -> float:
    """``alpha / comparisons``: what Holm asks of the least p-value, and more than it asks of the others. Power planned
    at it is a lower bound.
    """
    return alpha / comparisons


def difference_sd(run_sd: float, correlation: float = 0.0) -> float:
    """The paired difference's standard deviation ``run_sd sqrt(2 (1 - correlation))`` from one run's.

    How much two methods' runs of one seed have in common is not known before both have been measured. At 0, the
    default, pairing by seed gains nothing: the plan is then too careful wherever it does.
    """
    return run_sd * math.sqrt(2 * (1 - correlation))


def power_of_difference(seeds: int, effect: float, alpha: float = 0.05) -> float:
    """The chance that the two-sided paired t test at level `alpha` rejects, for a true mean difference of `effect`
    standard deviations.

    ``t`` then follows the noncentral t distribution of S - 1 degrees of freedom with noncentrality ``effect sqrt(S)``:
    ``P(t > t_(1 - alpha/2)) + P(t < -t_(1 - alpha/2))``.
    """
    if seeds < 2:
        return 0.0
    critical, shift = stats.t.ppf(1 - alpha / 2, seeds - 1), abs(effect) * math.sqrt(seeds)
    tails = stats.nct.sf(critical, seeds - 1, shift), stats.nct.cdf(-critical, seeds - 1, shift)
    # scipy gives nan for probabilities too small to be told from 0: only the far tail can be one.
    return float(min(1.0, sum(np.nan_to_num(tails))))


def power_of_equivalence(seeds: int, margin: float, effect: float = 0.0, alpha: float = 0.05) -> float:
    """The chance that both one-sided tests at level `alpha` reject, for a margin and a true mean difference in standard
    deviations.

    They do where ``|mean| < margin - t_(1 - alpha) s / sqrt(S)``. Given the sample's standard deviation s the mean is
    normal, hence with the density f of s, that of ``sqrt(chi2_(S - 1) / (S - 1))``,

        integral from 0 to margin sqrt(S) / t of
            [Phi(sqrt(S) (margin - effect) - t s) - Phi(-sqrt(S) (margin + effect) + t s)] f(s) ds,

    which is Owen's Q in other words (Phillips, Power of the two one-sided tests procedure in bioequivalence, 1990).
    """
    if seeds < 2 or margin <= 0:
        return 0.0
    root, degrees = math.sqrt(seeds), seeds - 1
    critical = float(stats.t.ppf(1 - alpha, degrees))
    scale = 1 / math.sqrt(degrees)  # s is a chi of that scale

    def density(s: Array) -> Array:
        upper = special.ndtr(root * (margin - effect) - critical * s)
        lower = special.ndtr(critical * s - root * (margin + effect))
        found: Array = (upper - lower) * stats.chi.pdf(s, degrees, scale=scale)
        return found

    low, high = stats.chi.ppf(1e-12, degrees, scale=scale), stats.chi.isf(1e-12, degrees, scale=scale)
    high = min(high, root * margin / critical)
    return float(integrate.fixed_quad(density, low, high, n=NODES)[0]) if high > low else 0.0


@lru_cache(maxsize=256)
def detectable_difference(seeds: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The true difference, in standard deviations, that the two-sided paired test at `alpha` finds with `power`;
    infinite for fewer than two seeds.
    """
    if seeds < 2:
        return math.inf
    high = 1.0
    while power_of_difference(seeds, high, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda effect: power_of_difference(seeds, effect, alpha) - power, 0.0, high))


def seeds_for_difference(effect: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest seeds whose two-sided paired test at `alpha` finds a true difference of `effect` standard deviations
    with `power`; None where not even `MOST_SEEDS` do.
    """
    return _fewest(lambda seeds: power_of_difference(seeds, effect, alpha) >= power)


def seeds_for_equivalence(margin: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest seeds whose two one-sided tests at `alpha` show equivalence within `margin` standard deviations with
    `power`, where nothing differs; None where not even `MOST_SEEDS` do.
    """
    return _fewest(lambda seeds: power_of_equivalence(seeds, margin, alpha=alpha) >= power)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The least number from 2 on for which `enough`, which stays true once it is."""
    high = 2
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, 2)


@dataclass(frozen=True)
class Reach:
    """What a number of seeds can show. Differences and margins are in the unit of `difference_sd`.

    Attributes:
        seeds: pairs.
        level: of each test, after planning for several.
        power: that is asked for.
        difference_sd: the paired difference's standard deviation that the plan rests on; 1 for a plan in standard
            deviations.
        detectable: the smallest true difference found with `power`; None for fewer than two seeds.
        margin: None where nothing is asked but "does it differ?".
        power_at_margin: of the test of a difference, where the true one is the margin.
        power_of_equivalence: the chance to show equivalence where nothing differs.
        seeds_for_difference: the fewest that find a difference of the margin with `power`; None without a margin, or
            beyond `MOST_SEEDS`.
        seeds_for_equivalence: the fewest that show equivalence with `power` where nothing differs; None likewise.
    """

    seeds: int
    level: float
    power: float
    difference_sd: float
    detectable: float | None
    margin: float | None = None
    power_at_margin: float | None = None
    power_of_equivalence: float | None = None
    seeds_for_difference: int | None = None
    seeds_for_equivalence: int | None = None

    @property
    def reached(self) -> bool:
        """Whether the seeds can tell a difference of the margin from none: each is found with the power asked for.

        Always true without a margin, where no size of a difference is asked about.
        """
        if self.margin is None:
            return True
        assert self.power_at_margin is not None
        assert self.power_of_equivalence is not None
        return min(self.power_at_margin, self.power_of_equivalence) >= self.power

    @property
    def seeds_needed(self) -> int | None:
        """The fewest seeds that reach it; None without a margin, or where no number up to `MOST_SEEDS` does."""
        if self.seeds_for_difference is None or self.seeds_for_equivalence is None:
            return None
        return max(self.seeds_for_difference, self.seeds_for_equivalence)


@lru_cache(maxsize=256)
def reach(
    seeds: int,
    *,
    difference_sd: float = 1.0,
    margin: float | None = None,
    comparisons: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Reach:
    """What `seeds` can show: in standard deviations as it is, in the metric's units with a `difference_sd`.

    Kept, since every comparison that was planned with the pilot's spread asks the same.

    Args:
        difference_sd: above 0.
        margin: in the same unit.
        comparisons: declared ones, which share `alpha` by Holm's correction.
    """
    level = planning_level(comparisons, alpha)
    detectable = detectable_difference(seeds, power, level) * difference_sd
    found = detectable if math.isfinite(detectable) else None
    if margin is None:
        return Reach(seeds, level, power, difference_sd, found)
    ratio = margin / difference_sd
    return Reach(
        seeds, level, power, difference_sd, found, margin,
        power_at_margin=power_of_difference(seeds, ratio, level),
        power_of_equivalence=power_of_equivalence(seeds, ratio, alpha=level),
        seeds_for_difference=seeds_for_difference(ratio, power, level),
        seeds_for_equivalence=seeds_for_equivalence(ratio, power, level),
    )  # fmt: skip
