"""The schedule's integers, against a plain re-derivation in exact fractions and against the authors' floats."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_cli.errors import BudgetError
from dora_cli.methods.adalora import AdaloraSchedule
from tests.methods.adalora.running import new_adalora

GOOD: dict[str, Any] = {
    "total_steps": 100,
    "projections": 72,
    "start_rank": 12,
    "rank": 8,
    "warmup_fraction": 0.15,
    "final_fraction": 0.5,
    "interval": 10,
}


def plan(**changes: Any) -> AdaloraSchedule:
    return AdaloraSchedule.plan(**(GOOD | changes))


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    w = draw(st.integers(0, 99))
    f = draw(st.integers(0, 99 - w))
    rank = draw(st.integers(1, 12))
    smallest = -(-100 // (100 - w - f))  # the fewest steps of which pruning gets one
    return {
        "total_steps": draw(st.integers(smallest, smallest + 500)),
        "projections": draw(st.integers(1, 100)),
        "start_rank": rank + draw(st.integers(0, 12)),
        "rank": rank,
        "warmup_fraction": w / 100,
        "final_fraction": f / 100,
        "interval": draw(st.integers(1, 120)),
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arguments())
def test_every_integer_equals_a_plain_derivation(args: dict[str, Any]) -> None:
    schedule = plan(**args)
    T, W, F = args["total_steps"], schedule.warmup_steps, schedule.freeze_step
    start, target = args["projections"] * args["start_rank"], args["projections"] * args["rank"]
    events, budgets, budget = [], [start], start
    for step in range(1, T + 1):
        if step == F or (W < step < F and step % args["interval"] == 0 and start > target):
            share = (1 - Fraction(step - W, F - W)) ** 3
            budget = target + (start - target) * share.numerator // share.denominator
            events.append(step)
        budgets.append(budget)
    assert list(schedule.events()) == events
    assert [step for step in range(T + 1) if schedule.is_event(step)] == events
    assert [schedule.budget(step) for step in range(T + 1)] == budgets
    for step in range(T + 1):
        assert schedule.next_event(step) == next((event for event in events if event > step), None)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arguments())
def test_every_event_before_the_freeze_has_something_to_mask(args: dict[str, Any]) -> None:
    schedule = plan(**args)
    budgets = [schedule.budget(step) for step in range(args["total_steps"] + 1)]
    assert all(before >= after for before, after in itertools.pairwise(budgets))
    assert budgets[schedule.warmup_steps] == schedule.start_components
    assert set(budgets[schedule.freeze_step :]) == {schedule.final_components}
    assert all(schedule.budget(event) < schedule.start_components for event in itertools.islice(
        schedule.events(), sum(1 for _ in schedule.events()) - 1))  # fmt: skip


def test_by_hand() -> None:
    # T 100: W = 15, L = 35, F = 50; multiples of 10 in (15, 50), and 50. 576 + 288 (left / 35)^3.
    schedule = plan()
    assert schedule.phases == (("warm-up", 1, 15), ("pruning", 16, 50), ("final", 51, 100))
    assert list(schedule.events()) == [20, 30, 40, 50]
    assert [schedule.budget(step) for step in (1, 19, 20, 30, 39, 40, 49, 50, 100)] == [
        864, 864, 757, 629, 629, 582, 582, 576, 576
    ]  # fmt: skip


def test_a_multiple_at_the_end_of_the_warm_up_is_no_event() -> None:
    assert list(plan(warmup_fraction=0.2).events()) == [30, 40, 50]  # step 20 belongs to the warm-up; L = 30


def test_equal_ranks_freeze_and_mask_nothing_before() -> None:
    """PEFT fails at its first event then: there is no smallest score but the 0th."""
    schedule = plan(start_rank=8)
    assert list(schedule.events()) == [50]
    assert schedule.next_event(0) == 50
    assert {schedule.budget(step) for step in range(101)} == {576}


def test_describe_holds_the_same_integers() -> None:
    found = plan().describe()
    assert (found["events"], found["first_event"], found["freeze_step"], found["curve"]) == (4, 20, 50, "adalora")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rank": 0}, "method.rank is 0"),
        ({"start_rank": 7}, "method.start_rank is 7"),
        ({"prune_interval": 0}, "method.prune_interval is 0"),
        ({"warmup_fraction": 0.5}, "warmup_fraction 0.5"),
    ],
)
def test_what_plan_refuses(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(BudgetError, match=word):
        new_adalora(**changes).plan(100, [object()])  # type: ignore[list-item]


# The authors' floats --------------------------------------------------------------------------------------------------

TABLE_8 = {  # examples, epochs, t_i, Delta_T, t_f; the batch is 32 everywhere
    "mnli": (392_702, 7, 8_000, 100, 50_000),
    "rte": (2_490, 50, 600, 1, 1_800),
    "qnli": (104_743, 5, 2_000, 100, 8_000),
    "mrpc": (3_668, 30, 600, 1, 1_800),
    "qqp": (363_846, 5, 8_000, 100, 25_000),
    "sst2": (67_349, 24, 6_000, 100, 22_000),
    "cola": (8_551, 25, 800, 10, 3_500),
    "stsb": (5_749, 25, 800, 10, 2_000),
}


def floating(schedule: AdaloraSchedule, step: int) -> int:
    """The budget of `step` as the authors' code computes it."""
    start, target = schedule.start_components, schedule.final_components
    share = 1 - (step - schedule.warmup_steps) / (schedule.freeze_step - schedule.warmup_steps)
    return int(target + (start - target) * share**3)


@pytest.mark.parametrize("task", TABLE_8)
def test_published_settings_have_the_authors_budgets(task: str) -> None:
    examples, epochs, t_i, interval, t_f = TABLE_8[task]
    T = ceil(examples / 32) * epochs
    for start_rank, rank in ((12, 8), (6, 4), (3, 2)):
        schedule = AdaloraSchedule(T, 72, start_rank, rank, t_i, T - t_i - t_f, interval)
        assert all(schedule.budget(event) == floating(schedule, event) for event in schedule.events())
