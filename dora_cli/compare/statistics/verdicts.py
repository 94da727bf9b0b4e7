"""From paired differences to one verdict a comparison.

Three families of tests, each over all declared comparisons m, each with Holm's correction at level `alpha` (5 %):

* difference: two-sided, "the mean difference is 0";
* equivalence: TOST, "it is the margin or more, in either direction" (only with a margin);
* non-inferiority: one-sided, "it is worse by the margin or more" (only with a margin).

A verdict is a function of what these reject, taken in this order:

=============== ===================================================================================================
better, worse   the difference family rejects; the sign of the mean says which. `within_margin` where the equivalence
                family rejects as well: it differs, by less than the margin
equivalent      the equivalence family rejects
non-inferior    the non-inferiority family rejects
withheld        nothing is rejected and could not well have been: there is no test (fewer than two pairs, or differences
                without any spread), or the seeds cannot tell a difference of the margin from none (`Reach.reached`).
                `Reach.seeds_needed` names how many can. No rejection then says nothing about the methods
undecided       nothing is rejected, though the seeds were enough (or no margin says what enough is)
=============== ===================================================================================================

Errors: within each family the chance of at least one false rejection is at most `alpha`, whatever the dependence
between comparisons that share a baseline; so is the chance of at least one false "better" or "worse", of at least one
false "equivalent", of at least one false "non-inferior". All three taken together it is at most ``3 alpha``. (A wrong
*sign* of a true difference adds to the first; one comparison makes it with at most ``alpha / 2``.) Few seeds make
rejections rare, not wrong: so "better" and "worse" stand with few seeds too, but the difference that was needed to get
there is then likely to be an overestimate, and `reach.reached` tells. Intervals are of single comparisons, not
adjusted, and may leave out 0 where Holm does not reject. A bootstrap-t test keeps its level only approximately.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from dora_cli.compare.statistics.equivalence import EquivalenceTest, equivalence_test
from dora_cli.compare.statistics.holm import holm
from dora_cli.compare.statistics.one_sample import Test
from dora_cli.compare.statistics.paired import Differences, PairedTest, paired_test
from dora_cli.compare.statistics.power import Reach, reach


class Verdict(str, Enum):
    """What a comparison came to; see the module."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    NON_INFERIOR = "non-inferior"
    UNDECIDED = "undecided"
    WITHHELD = "withheld"


@dataclass(frozen=True)
class Comparison:
    """A method beside its baseline.

    Attributes:
        differences: what was tested.
        difference: the test of no difference, unadjusted.
        p_holm: its p, adjusted over the declared comparisons; None where there is no test.
        equivalence: both one-sided tests, unadjusted; None without a margin.
        p_equivalent: p of TOST, adjusted.
        p_non_inferior: p of non-inferiority, adjusted.
        by_task: the test of each task alone; secondary.
        p_by_task: their p, adjusted over the tasks of this comparison.
        reach: what this many seeds can show; None where no spread is known.
        verdict: see the module.
        within_margin: better or worse, and yet equivalent within the margin.
    """

    differences: Differences
    difference: PairedTest
    p_holm: float | None
    equivalence: EquivalenceTest | None
    p_equivalent: float | None
    p_non_inferior: float | None
    by_task: Mapping[str, PairedTest]
    p_by_task: Mapping[str, float | None]
    reach: Reach | None
    verdict: Verdict
    within_margin: bool


def judge(
    comparisons: Mapping[str, Differences],
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
    planned_sd: float | None = None,
    test: Test = "t",
) -> dict[str, Comparison]:
    """A verdict for each declared comparison; the mapping is the family.

    Args:
        margin: in the unit of the differences; None for neither equivalence nor non-inferiority.
        alpha: family-wise level of each family; intervals are at ``1 - alpha``, those of equivalence at ``1 - 2
            alpha``.
        power: that `Reach.reached` asks for.
        planned_sd: the paired difference's standard deviation as planned, `difference_sd` of the pilot's spread; for a
            comparison that has none of its own, measured.
        test: of all families.
    """
    differences = {
        name: paired_test(pairs.values, level=1 - alpha, test=test, resolution=pairs.resolution)
        for name, pairs in comparisons.items()
    }
    equivalences: dict[str, EquivalenceTest] = {}
    if margin is not None:
        equivalences = {
            name: equivalence_test(pairs.values, margin, alpha=alpha, test=test, resolution=pairs.resolution)
            for name, pairs in comparisons.items()
        }
    p_holm = adjusted({name: found.p for name, found in differences.items()})
    p_equivalent = adjusted({name: found.p for name, found in equivalences.items()})
    p_non_inferior = adjusted({name: found.p_non_inferior for name, found in equivalences.items()})
    judged = {}
    for name, pairs in comparisons.items():
        by_task = {
            task: paired_test(values, level=1 - alpha, test=test, resolution=pairs.resolution)
            for task, values in pairs.by_task.items()
        }
        sd = differences[name].sd or planned_sd
        reached = None
        if sd:
            reached = reach(
                len(pairs.values),
                difference_sd=sd,
                margin=margin,
                comparisons=len(comparisons),
                alpha=alpha,
                power=power,
            )
        verdict = _verdict(
            differences[name], p_holm[name], p_equivalent.get(name), p_non_inferior.get(name), reached, alpha
        )
        judged[name] = Comparison(
            differences=pairs,
            difference=differences[name],
            p_holm=p_holm[name],
            equivalence=equivalences.get(name),
            p_equivalent=p_equivalent.get(name),
            p_non_inferior=p_non_inferior.get(name),
            by_task=by_task,
            p_by_task=adjusted({task: found.p for task, found in by_task.items()}),
            reach=reached,
            verdict=verdict,
            within_margin=verdict in (Verdict.BETTER, Verdict.WORSE) and _at_most(p_equivalent.get(name), alpha),
        )
    return judged


def adjusted(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's adjusted p by name; None stays None, and counts as 1 for the others."""
    values: Iterable[float] = holm([1.0 if p is None else p for p in p_values.values()]).tolist() if p_values else []
    return {name: None if p is None else value for (name, p), value in zip(p_values.items(), values, strict=True)}


def _verdict(
    difference: PairedTest,
    p_different: float | None,
    p_equivalent: float | None,
    p_non_inferior: float | None,
    reached: Reach | None,
    alpha: float,
) -> Verdict:
    if _at_most(p_different, alpha):
        assert difference.mean is not None
        return Verdict.BETTER if difference.mean > 0 else Verdict.WORSE
    if _at_most(p_equivalent, alpha):
        return Verdict.EQUIVALENT
    if _at_most(p_non_inferior, alpha):
        return Verdict.NON_INFERIOR
    if difference.no_test is not None or reached is None or not reached.reached:
        return Verdict.WITHHELD
    return Verdict.UNDECIDED


def _at_most(p: float | None, alpha: float) -> bool:
    return p is not None and p <= alpha
