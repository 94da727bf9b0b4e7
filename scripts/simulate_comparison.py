"""Whether the statistics of a comparison keep what they promise, by simulated experiments with a known truth.

    python scripts/simulate_comparison.py [--experiments N] [--normal] [--json FILE]

Prints two Markdown tables. The first is of normal scores, for which every promise is exact: rejections where nothing
differs, coverage, several comparisons that share the baseline's runs, power, equivalence. Exit code 1 if one is missed
by more than is allowed. The second is of scores as fine-tuning makes them when runs collapse, or press against a
ceiling, for which nothing is promised: how often the true mean lies outside the 95 % interval, on either side, by
paired t and by bootstrap-t. ``--normal`` leaves it out. Fixed seeds: the same numbers every time.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dora_cli.compare.statistics import (
    Test,
    detectable_difference,
    holm,
    planning_level,
    power_of_difference,
    power_of_equivalence,
)
from dora_cli.compare.statistics.one_sample import interval, probability

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

Bound = Literal["", "at most", "at least"]

SEEDS = (5, 10)
ALPHA = 0.05
SHARED_SD = math.sqrt(2)
"""Standard deviation of the difference of two runs with a standard deviation of 1."""
RESAMPLES = 999
"""Resamples of each bootstrap here, where one of tens of thousands of experiments is not looked at."""
CHUNK = 2000
"""Experiments bootstrapped at once, for memory."""


@dataclass(frozen=True)
class Promise:
    """A promised share of experiments, and the share that was found.

    Attributes:
        what: in words.
        seeds: of an experiment.
        promised: a share, or its bound.
        found: share of the simulated experiments.
        allowed: how far `found` may be off.
        bound: "at most" where less is as good, "at least" where more is.
    """

    what: str
    seeds: int
    promised: float
    found: float
    allowed: float
    bound: Bound = ""

    @property
    def kept(self) -> bool:
        """Whether `found` is near enough."""
        gap = self.found - self.promised
        return (gap <= self.allowed or self.bound == "at least") and (gap >= -self.allowed or self.bound == "at most")


@dataclass(frozen=True)
class Miss:
    """How often the true mean difference lies outside the 95 % interval.

    Attributes:
        scores: how the runs' scores are distributed.
        seeds: of an experiment.
        test: "t" or "bootstrap-t".
        below: share of the experiments whose interval ends below the true mean.
        above: share whose interval begins above it.
        width: median width in standard deviations of the difference.
    """

    scores: str
    seeds: int
    test: Test
    below: float
    above: float
    width: float


def normal_promises(experiments: int, seeds: int) -> Iterator[Promise]:
    """What is exact for normal scores, in `experiments` experiments of `seeds` seeds.

    Allowed are three standard errors of the simulation itself, or half a point for a level, a point for coverage and
    two for power where that is more.
    """
    random = np.random.default_rng(seeds)

    def drawn(mean: float = 0.0) -> Array:
        return random.normal(mean, size=(experiments, seeds))

    def promise(what: str, promised: float, kept: npt.ArrayLike, least: float, bound: Bound = "") -> Promise:
        chance = 3 * math.sqrt(promised * (1 - promised) / experiments)
        return Promise(what, seeds, promised, float(np.mean(np.asarray(kept))), max(least, chance), bound)

    yield promise("no difference: rejected", ALPHA, probability(drawn()) <= ALPHA, 0.005)
    truth = random.normal(size=experiments)
    low, high = interval(drawn() + truth[:, None])
    covered = (low <= truth) & (truth <= high)
    yield promise("the 95 % interval covers the true difference", 1 - ALPHA, covered, 0.01)
    detectable = detectable_difference(seeds)
    for name, effect in (("", detectable), ("half ", detectable / 2)):
        found = probability(drawn(effect)) <= ALPHA
        yield promise(
            f"{name}the smallest detectable difference: found", power_of_difference(seeds, effect), found, 0.02
        )

    for comparisons in (3, 6):
        differences = sharing_a_baseline(random, experiments, comparisons, seeds)
        rejected = (holm(probability(differences)) <= ALPHA).any(axis=-1)
        yield promise(f"{comparisons} methods, none differs: any rejected", ALPHA, rejected, 0.0, "at most")
    differences[:, 3:] += 10 * SHARED_SD
    rejected = (holm(probability(differences)) <= ALPHA)[:, :3].any(axis=-1)
    yield promise("6 methods, 3 differ by far: any other rejected", ALPHA, rejected, 0.0, "at most")
    differences = sharing_a_baseline(random, experiments, 3, seeds)
    differences[:, 0] += SHARED_SD * detectable_difference(seeds, alpha=planning_level(3))
    found = holm(probability(differences))[:, 0] <= ALPHA
    yield promise("3 methods, 1 differs by what is detectable among 3: found", 0.8, found, 0.0, "at least")

    for margin in (1.0, 1.5):
        setting = f"margin {margin} sd"
        within = equivalence_p(drawn(margin), margin) <= ALPHA
        yield promise(f"{setting}, differs by it: called equivalent", ALPHA, within, 0.0, "at most")
        within = equivalence_p(drawn(), margin) <= ALPHA
        promised = power_of_equivalence(seeds, margin)
        yield promise(f"{setting}, no difference: called equivalent", promised, within, 0.02)
    differences = sharing_a_baseline(random, experiments, 3, seeds) + 1.5 * SHARED_SD
    called = (holm(equivalence_p(differences, 1.5 * SHARED_SD)) <= ALPHA).any(axis=-1)
    yield promise("margin 1.5 sd, 3 methods differ by it: any called equivalent", ALPHA, called, 0.0, "at most")
    called = probability(drawn(-1.0), -1.0, "greater") <= ALPHA
    yield promise("worse by the margin: called non-inferior", ALPHA, called, 0.005)


def sharing_a_baseline(random: np.random.Generator, experiments: int, comparisons: int, seeds: int) -> Array:
    """Differences of shape (experiments, comparisons, seeds) to one baseline: correlated by a half, with a standard
    deviation of `SHARED_SD`.
    """
    methods = random.normal(size=(experiments, comparisons, seeds))
    return methods - random.normal(size=(experiments, 1, seeds))


def equivalence_p(values: Array, margin: float) -> Array:
    """The p-value of both one-sided tests over the last axis."""
    return np.maximum(probability(values, -margin, "greater"), probability(values, margin, "less"))


def collapsing(share: float, depth: float) -> Draw:
    """Normal scores of which a share falls by `depth` standard deviations, to what a model scores that has learnt
    nothing; their mean is 0.
    """

    def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return random.normal(size=shape) - depth * ((random.random(shape) < share) - share)

    return draw


def steady(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal scores."""
    return random.normal(size=shape)


def under_a_ceiling(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Scores whose distance to a ceiling is exponential, with a mean of 0."""
    return 1 - random.exponential(size=shape)


def far_below(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Scores whose distance to a ceiling is log-normal (sigma 1), with a mean of 0."""
    return math.exp(0.5) - random.lognormal(size=shape)


def nearly_fixed(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Normal scores of a tenth of the spread."""
    return 0.1 * random.normal(size=shape)


SKEWED: dict[str, tuple[Draw, Draw]] = {
    "normal, both": (steady, steady),
    "1 in 10 runs of either collapses": (collapsing(0.1, 10), collapsing(0.1, 10)),
    "1 in 10 runs of the method collapses": (collapsing(0.1, 10), steady),
    "3 in 10 runs of the method collapse": (collapsing(0.3, 10), steady),
    "exponential below a ceiling, both": (under_a_ceiling, under_a_ceiling),
    "exponential below a ceiling, baseline steady": (under_a_ceiling, nearly_fixed),
    "log-normal below a ceiling, both": (far_below, far_below),
    "log-normal below a ceiling, baseline steady": (far_below, nearly_fixed),
}
"""A method's and its baseline's scores, of the same mean."""


def skewed_misses(experiments: int, seeds: int) -> Iterator[Miss]:
    """How paired t and bootstrap-t do where nothing is promised."""
    for number, (name, (method, baseline)) in enumerate(SKEWED.items()):
        random = np.random.default_rng((seeds, number))
        differences = method(random, (experiments, seeds)) - baseline(random, (experiments, seeds))
        sd = float(differences.std())
        tests: tuple[Test, ...] = ("t", "bootstrap-t")
        for test in tests:
            parts = [
                interval(differences[start : start + CHUNK], test=test, resamples=RESAMPLES)
                for start in range(0, experiments, CHUNK)
            ]
            low, high = (np.concatenate(ends) for ends in zip(*parts, strict=True))
            width = float(np.median(high - low)) / sd
            yield Miss(name, seeds, test, float((high < 0).mean()), float((low > 0).mean()), width)


def promises_table(promises: list[Promise]) -> str:
    """Markdown, in per cent."""
    lines = ["| experiments of normal scores | seeds | promised | found |", "|---|---:|---:|---:|"]
    for promise in promises:
        bound = f"{promise.bound} " if promise.bound else ""
        missed = "" if promise.kept else " (missed)"
        lines.append(
            f"| {promise.what} | {promise.seeds} | {bound}{100 * promise.promised:.1f} % "
            f"| {100 * promise.found:.1f} %{missed} |"
        )
    return "\n".join(lines)


def misses_table(misses: list[Miss]) -> str:
    """Markdown: how often the truth is outside the interval, in brackets above and below it, and the median width."""
    lines = [
        "| scores (same mean) | seeds | truth outside (above + below): t | bootstrap-t | width, sd: t | bootstrap-t |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for t, bootstrap in zip(misses[::2], misses[1::2], strict=True):
        shares = " | ".join(
            f"{100 * (miss.below + miss.above):.1f} % ({100 * miss.below:.1f} + {100 * miss.above:.1f})"
            for miss in (t, bootstrap)
        )
        lines.append(f"| {t.scores} | {t.seeds} | {shares} | {t.width:.2f} | {bootstrap.width:.2f} |")
    return "\n".join(lines)


def main() -> int:
    """0 if every promise is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=20_000)
    parser.add_argument("--normal", action="store_true", help="leave out the skewed scores")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    promises = [promise for seeds in SEEDS for promise in normal_promises(args.experiments, seeds)]
    error = 200 * math.sqrt(ALPHA * (1 - ALPHA) / args.experiments)
    print(f"{args.experiments} experiments a line: a share of 5 % is found within {error:.1f} points.")
    print(f"\n{promises_table(promises)}", flush=True)
    misses = [] if args.normal else [miss for seeds in SEEDS for miss in skewed_misses(args.experiments, seeds)]
    if misses:
        print(f"\n{misses_table(misses)}")
    if args.json:
        content = {
            "experiments": args.experiments,
            "normal": [{**asdict(promise), "kept": promise.kept} for promise in promises],
            "skewed": [asdict(miss) for miss in misses],
        }
        args.json.write_text(json.dumps(content, indent=1))
    return 0 if all(promise.kept for promise in promises) else 1


if __name__ == "__main__":
    raise SystemExit(main())
