"""Which tests lead to which verdict, and how often a verdict is false."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dora_cli.compare.statistics import (
    Differences,
    Test,
    Verdict,
    equivalence_test,
    holm,
    judge,
    paired_test,
    reach,
)

SHAPE = np.array([-1.5, -1.0, -0.5, -0.25, 0.0, 0.0, 0.25, 0.5, 1.0, 1.5])
SHAPE = SHAPE / SHAPE.std(ddof=1)
"""Ten differences with a mean of 0 and a standard deviation of 1."""


def pairs(mean: float, sd: float = 1.0, size: int = 10) -> Differences:
    """Differences of exactly this mean and standard deviation, on one task."""
    values = SHAPE[:size] - SHAPE[:size].mean()
    spread = values.std(ddof=1) if size > 1 else 1.0
    return of(mean + sd * values / spread)


def of(values: np.ndarray) -> Differences:
    found = tuple(values.tolist())
    return Differences(tuple(range(len(found))), found, {"rte": found}, {})


def untold(values: np.ndarray) -> Differences:
    """Without its single task, which costs a test."""
    return replace(of(values), by_task={})


@pytest.mark.parametrize(
    ("mean", "margin", "expected"),
    [
        # t of 10 differences with sd 1: 2.262 two-sided, 1.833 one-sided, over sqrt(10): 0.715 and 0.580.
        (0.72, 2.0, Verdict.BETTER),
        (-0.72, 2.0, Verdict.WORSE),
        (0.71, 2.0, Verdict.EQUIVALENT),
        (-0.71, 1.30, Verdict.EQUIVALENT),
        (-0.71, 1.28, Verdict.UNDECIDED),
        (0.71, 1.28, Verdict.NON_INFERIOR),
        (0.71, None, Verdict.UNDECIDED),
        (-0.43, 1.0, Verdict.WITHHELD),
        (0.43, 1.0, Verdict.NON_INFERIOR),
        (0.43, 0.1, Verdict.WITHHELD),
    ],
)
def test_verdicts_by_hand(mean: float, margin: float | None, expected: Verdict) -> None:
    """10 seeds reach a margin of 1.28 standard deviations, and do not quite reach one of 1."""
    found = judge({"a": pairs(mean)}, margin=margin)["a"]
    assert found.verdict is expected
    assert found.reach is not None
    assert found.reach.reached == (margin is None or margin > 1)


def test_a_difference_may_be_real_and_within_the_margin() -> None:
    assert judge({"a": pairs(0.8)}, margin=2.0)["a"].within_margin
    assert not judge({"a": pairs(0.8)}, margin=1.0)["a"].within_margin
    assert not judge({"a": pairs(0.8)})["a"].within_margin
    equal = judge({"a": pairs(0.1)}, margin=2.0)["a"]
    assert (equal.verdict, equal.within_margin) == (Verdict.EQUIVALENT, False)


def test_each_family_is_corrected_by_holm() -> None:
    """Differences that are each significant alone, and equivalent alone, lose some in a family of four."""
    declared = {"a": pairs(0.72), "b": pairs(0.95), "c": pairs(-0.75), "d": pairs(1.2)}
    found = judge(declared, margin=2.0)
    alone = {name: judge({name: differences}, margin=2.0)[name] for name, differences in declared.items()}
    assert {each.verdict for each in alone.values()} == {Verdict.BETTER, Verdict.WORSE}
    tests = [paired_test(differences.values) for differences in declared.values()]
    margins = [equivalence_test(differences.values, 2.0) for differences in declared.values()]
    assert [each.p_holm for each in found.values()] == pytest.approx(holm([each.p for each in tests]).tolist())
    assert [each.p_equivalent for each in found.values()] == pytest.approx(holm([each.p for each in margins]).tolist())
    assert [each.p_non_inferior for each in found.values()] == pytest.approx(
        holm([each.p_non_inferior for each in margins]).tolist()
    )
    verdicts = {name: each.verdict for name, each in found.items()}
    assert verdicts == {
        "a": Verdict.EQUIVALENT, "b": Verdict.BETTER, "c": Verdict.EQUIVALENT, "d": Verdict.BETTER
    }  # fmt: skip
    assert all(each.reach is not None and each.reach.level == pytest.approx(0.05 / 4) for each in found.values())


def test_the_declared_ones_count_even_where_there_is_no_test() -> None:
    """0.72 alone is better (p = 0.049); beside a comparison without a single pair it is not."""
    found = judge({"a": pairs(0.72), "b": of(np.array([]))})
    assert found["a"].p_holm == pytest.approx(2 * paired_test(pairs(0.72).values).p)
    assert found["a"].verdict is Verdict.UNDECIDED
    assert (found["b"].p_holm, found["b"].verdict, found["b"].reach) == (None, Verdict.WITHHELD, None)


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
@pytest.mark.parametrize("margin", [None, 5.0])
def test_without_a_test_the_verdict_is_withheld(values: list[float], margin: float | None) -> None:
    found = judge({"a": of(np.array(values))}, margin=margin, planned_sd=1.0)["a"]
    assert found.verdict is Verdict.WITHHELD
    assert found.difference.no_test is not None


def test_few_seeds_withhold_what_they_cannot_reach_and_name_how_many_can() -> None:
    """By the spread that is found; where none is, as planned."""
    measured = judge({"a": pairs(0.3, sd=0.5, size=3)}, margin=0.5, planned_sd=1.0)["a"]
    assert measured.verdict is Verdict.WITHHELD
    assert measured.reach is not None
    assert measured.reach.difference_sd == pytest.approx(0.5)
    assert measured.reach.seeds_needed == reach(3, margin=1.0).seeds_needed == 11
    found = judge({"a": of(np.array([0.3]))}, margin=0.5, planned_sd=1.0)["a"]
    assert found.reach == reach(1, difference_sd=1.0, margin=0.5)
    assert found.reach.seeds_needed == reach(36, margin=0.5).seeds_needed == 36


def test_a_rejection_stands_with_few_seeds() -> None:
    found = judge({"a": pairs(-20, size=3)}, margin=0.5)["a"]
    assert found.verdict is Verdict.WORSE
    assert found.reach is not None
    assert not found.reach.reached


def test_tasks_are_a_family_of_their_own() -> None:
    good, bad = pairs(0.72).values, pairs(0.1).values
    declared = Differences(tuple(range(10)), good, {"rte": good, "cola": bad}, {})
    found = judge({"a": declared})["a"]
    p = {"rte": paired_test(good).p, "cola": paired_test(bad).p}
    assert {task: each.p for task, each in found.by_task.items()} == p
    assert list(found.p_by_task.values()) == pytest.approx(holm(list(p.values())).tolist())


def test_units_do_not_matter() -> None:
    """Shares or points: everything but the unit is the same."""
    for mean in (-0.8, -0.2, 0.3):
        points = judge({"a": pairs(100 * mean, 100.0)}, margin=120.0, planned_sd=90.0)["a"]
        shares = judge({"a": pairs(mean)}, margin=1.2, planned_sd=0.9)["a"]
        assert points.verdict is shares.verdict
        assert points.p_holm == pytest.approx(shares.p_holm)
        assert points.reach is not None
        assert shares.reach is not None
        assert points.reach.seeds_needed == shares.reach.seeds_needed
        assert points.reach.detectable == pytest.approx(100 * shares.reach.detectable)


TESTS: tuple[Test, ...] = ("t", "bootstrap-t")


@pytest.mark.parametrize("test", TESTS)
def test_the_test_is_the_one_asked_for(test: Test) -> None:
    found = judge({"a": pairs(0.5)}, margin=1.0, test=test)["a"]
    assert found.difference == paired_test(pairs(0.5).values, test=test)
    assert found.equivalence == equivalence_test(pairs(0.5).values, 1.0, test=test)
    assert found.by_task["rte"].test == test


def test_false_verdicts_are_at_most_one_experiment_in_twenty() -> None:
    """Three methods that share a baseline: the first two like it, the third worse by exactly the margin.

    "better" or "worse" is false of the first two; "equivalent" and "non-inferior" of the third. Each family errs in at
    most 5 % of 80 experiments, within three standard errors, and all three families err sometimes.
    """
    random = np.random.default_rng(17)
    experiments, margin = 80, 1.5 * math.sqrt(2)
    false = {"difference": 0, "equivalence": 0, "non-inferiority": 0}
    for _ in range(experiments):
        runs = random.normal(size=(4, 6))
        differences = runs[1:] - runs[0] - np.array([[0.0], [0.0], [margin]])
        found = judge(dict(zip("abc", map(untold, differences), strict=True)), margin=margin, planned_sd=math.sqrt(2))
        differ = {Verdict.BETTER, Verdict.WORSE}
        false["difference"] += bool({found["a"].verdict, found["b"].verdict} & differ)
        false["equivalence"] += found["c"].p_equivalent is not None and found["c"].p_equivalent <= 0.05
        false["non-inferiority"] += found["c"].p_non_inferior is not None and found["c"].p_non_inferior <= 0.05
    most = experiments * 0.05 + 3 * math.sqrt(experiments * 0.05 * 0.95)
    assert all(0 < count <= most for count in false.values()), false


def test_more_seeds_need_less() -> None:
    needed = [reach(5, margin=margin).seeds_needed or 0 for margin in (0.3, 0.5, 1.0, 2.0)]
    assert all(more > fewer for more, fewer in pairwise(needed))
