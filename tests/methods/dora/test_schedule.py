"""Decision 2's integers, against a plain re-derivation in exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Site
from dora_cli.methods.dora.schedule import DoraSchedule
from tests.methods.small import new_dora

GOOD: dict[str, Any] = {
    "total_steps": 100,
    "projections": 72,
    "start_rank": 12,
    "rank": 8,
    "warmup_fraction": 0.15,
    "final_fraction": 0.5,
    "interval": 10,
}


def site(name: str, d_out: int, d_in: int) -> Site:
    return Site(name, nn.Identity(), (d_out, d_in))


def plan(**changes: Any) -> DoraSchedule:
    return DoraSchedule.plan(**(GOOD | changes))


def whole(value: Fraction) -> int:
    """Floor of a non-negative fraction, without `math.floor`."""
    return value.numerator // value.denominator


class Plain:
    """The schedule written a second time: every step visited, every number a fraction."""

    def __init__(
        self,
        *,
        total_steps: int,
        projections: int,
        start_rank: int,
        rank: int,
        warmup: str,
        final: str,
        interval: int,
        curve: str,
        wanted_events: int | None = None,
        rank_cost: int | None = None,
        max_rank: int | None = None,
    ) -> None:
        w, f = Fraction(warmup), Fraction(final)
        self.W = whole(w * total_steps)
        self.L = whole((1 - w - f) * total_steps)
        self.F = self.W + self.L
        self.N = projections * start_rank
        cost = projections if rank_cost is None else rank_cost
        bound = start_rank if max_rank is None else min(start_rank, max_rank)
        self.events: list[int] = []
        self.budgets, self.allowed, self.most = [self.N], [cost * start_rank], [start_rank]  # by step, from 0
        multiples = {self.W + j * interval for j in range(1, self.L // interval + 1)} | {self.F}
        if wanted_events is not None:
            multiples = {self.W + whole(Fraction(j * self.L, wanted_events)) for j in range(1, wanted_events + 1)}
        for step in range(1, total_steps + 1):
            budget, allowed, most = self.budgets[-1], self.allowed[-1], self.most[-1]
            if step in multiples:
                u = Fraction(step - self.W, self.L)
                share = u**3 if curve == "published" else 1 - (1 - u) ** 3
                pruned = whole(cost * (start_rank - rank) * share)
                allowed = cost * start_rank - pruned
                budget = self.N - whole(projections * (start_rank - rank) * share)
                most = start_rank - whole((start_rank - bound) * share)
                if pruned or step == self.F:
                    self.events.append(step)
            self.budgets.append(budget)
            self.allowed.append(allowed)
            self.most.append(most)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    w = draw(st.integers(0, 99))
    f = draw(st.integers(0, 99 - w))
    rank = draw(st.integers(1, 12))
    smallest = -(-100 // (100 - w - f))  # the fewest steps of which pruning gets one
    return {
        "total_steps": draw(st.integers(smallest, smallest + 700)),
        "projections": draw(st.integers(1, 100)),
        "start_rank": rank + draw(st.integers(0, 12)),
        "rank": rank,
        "warmup_fraction": w / 100,
        "final_fraction": f / 100,
        "interval": draw(st.integers(1, 120)),
        "curve": draw(st.sampled_from(["published", "adalora"])),
        "wanted_events": draw(st.none() | st.integers(1, 40)),
        "rank_cost": draw(st.none() | st.integers(1, 100_000)),
        "max_rank": draw(st.none() | st.integers(rank, 30)),
    }


def plain_of(given_arguments: dict[str, Any]) -> Plain:
    rest = dict(given_arguments)
    # Hundredths, so the decimal the user wrote is the one with two places.
    return Plain(warmup=f"{rest.pop('warmup_fraction'):.2f}", final=f"{rest.pop('final_fraction'):.2f}", **rest)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arguments())
def test_every_integer_equals_the_plain_derivation(args: dict[str, Any]) -> None:
    schedule, plain = DoraSchedule.plan(**args), plain_of(args)
    assert (schedule.warmup_steps, schedule.pruning_steps, schedule.freeze_step) == (plain.W, plain.L, plain.F)
    assert list(schedule.events()) == plain.events
    steps = range(args["total_steps"] + 1)
    assert [schedule.budget(step) for step in steps] == plain.budgets
    assert [schedule.allowed(step) for step in steps] == plain.allowed
    assert [schedule.most(step) for step in steps] == plain.most
    assert [step for step in steps if schedule.is_event(step)] == plain.events
    for step in steps:
        assert schedule.next_event(step) == next((event for event in plain.events if event > step), None)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arguments())
def test_budget_falls_from_all_components_to_the_target(args: dict[str, Any]) -> None:
    schedule = DoraSchedule.plan(**args)
    budgets = [schedule.budget(step) for step in range(args["total_steps"] + 1)]
    assert all(before >= after for before, after in itertools.pairwise(budgets))
    assert (
        budgets[0]
        == budgets[schedule.warmup_steps]
        == args["projections"] * args["start_rank"]
        == schedule.start_components
    )
    assert set(budgets[schedule.freeze_step :]) == {args["projections"] * args["rank"]} == {schedule.final_components}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arguments())
def test_what_is_allowed_fits_under_the_highest_rank(args: dict[str, Any]) -> None:
    """Else a budget could not be spent: components of each projection up to its bound pay for all that is allowed."""
    schedule = DoraSchedule.plan(**args)
    cost = schedule.rank_cost
    allowed = [schedule.allowed(step) for step in range(args["total_steps"] + 1)]
    assert all(cost * schedule.most(step) >= left for step, left in enumerate(allowed))
    assert (allowed[0], allowed[-1]) == (cost * args["start_rank"], cost * args["rank"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arguments())
def test_phases_tile_the_run(args: dict[str, Any]) -> None:
    schedule = DoraSchedule.plan(**args)
    covered = [(step, name) for name, first, last in schedule.phases for step in range(first, last + 1)]
    assert covered == [(step, schedule.phase(step)) for step in range(1, args["total_steps"] + 1)]
    assert [name for name, _, _ in schedule.phases] == [
        name for name in ("warm-up", "pruning", "final") if name in {n for _, n in covered}
    ]
    assert schedule.phase(schedule.freeze_step) == "pruning"


def test_published_settings_by_hand() -> None:
    # T 100: W = 15, L = 35, F = 50; events every 10 after 15, and the freeze at tau 35, which is not a multiple of 10.
    schedule = plan()
    assert schedule.phases == (("warm-up", 1, 15), ("pruning", 16, 50), ("final", 51, 100))
    assert list(schedule.events()) == [25, 35, 45, 50]
    # 288 tau^3 / 35^3: 0, 6.7, 53.7, 181.4, 288 of 864.
    assert [schedule.budget(step) for step in (15, 25, 35, 45, 50)] == [864, 858, 811, 683, 576]
    assert [schedule.budget(step) for step in (1, 24, 34, 44, 49, 100)] == [864, 864, 858, 811, 683, 576]


def test_adalora_curve_by_hand() -> None:
    # 288 (1 - ((35 - tau) / 35)^3): 0, 183.05, 265.3, 287.2, 288.
    assert [plan(curve="adalora").budget(step) for step in (15, 25, 35, 45, 50)] == [864, 681, 599, 577, 576]


@pytest.mark.parametrize(("rank", "start", "final"), [(8, 864, 576), (4, 432, 288), (2, 216, 144), (16, 1728, 1152)])
def test_component_totals_of_the_paper(rank: int, start: int, final: int) -> None:
    schedule = new_dora(rank=rank).plan(12_480, [site(f"{i}", 768, 768) for i in range(72)])
    assert (schedule.start_components, schedule.final_components) == (start, final)


@pytest.mark.parametrize(
    ("fraction", "steps", "warmup"),
    [(0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7), (0.15, 12_480, 1872), (0.1, 30, 3)],
)
def test_fractions_are_read_as_decimals(fraction: float, steps: int, warmup: int) -> None:
    # int(0.29 * 100) is 28 in binary floating point.
    assert plan(total_steps=steps, warmup_fraction=fraction, final_fraction=0.25).warmup_steps == warmup


def test_no_float_error_in_the_pruning_length() -> None:
    # int(180 * (1 - 0.15 - 0.5)), as in the published code, is 62.
    assert [plan(total_steps=steps).pruning_steps for steps in (20, 100, 180, 12_480)] == [7, 35, 63, 4368]


def test_without_warm_up_the_first_event_is_a_real_step() -> None:
    schedule = plan(warmup_fraction=0.0, final_fraction=0.5, total_steps=20, interval=4)  # 288 (4 / 10)^3 = 18.4
    assert list(schedule.events()) == [4, 8, 10]
    assert schedule.next_event(0) == 4
    assert not schedule.is_event(0)
    assert schedule.phases == (("pruning", 1, 10), ("final", 11, 20))


def test_without_a_final_phase_the_freeze_is_the_last_step() -> None:
    schedule = plan(warmup_fraction=0.2, final_fraction=0.0, total_steps=10, interval=3)
    assert schedule.freeze_step == 10
    assert schedule.phases == (("warm-up", 1, 2), ("pruning", 3, 10))


def test_an_interval_longer_than_pruning_leaves_the_freeze_alone() -> None:
    assert list(plan(interval=1000).events()) == [50]


def test_a_number_of_events_is_spread_over_the_pruning_phase() -> None:
    # L = 35: four events at floor(35 j / 4) = 8, 17, 26 and 35; 288 tau^3 / 35^3: 3.4, 33.0, 118.06, 288.
    schedule = plan(wanted_events=4)
    assert list(schedule.events()) == [23, 32, 41, 50]
    assert [schedule.budget(step) for step in (22, 23, 31, 32, 41, 50)] == [864, 861, 861, 831, 746, 576]
    assert [schedule.describe()[key] for key in ("events", "interval", "longest_interval")] == [4, 8, 9]
    assert list(plan(wanted_events=1).events()) == [50]
    assert list(plan(wanted_events=5, curve="adalora").events()) == [22, 29, 36, 43, 50]


@pytest.mark.parametrize("wanted", [35, 36, 10_000])
def test_more_events_than_steps_select_after_every_step(wanted: int) -> None:
    schedule = plan(wanted_events=wanted, curve="adalora")
    assert list(schedule.events()) == list(range(16, 51))
    assert schedule.describe()["longest_interval"] == 1


def test_a_budget_in_parameters_by_hand() -> None:
    # Two projections, 8 x 4 and 4 x 16: a rank of one in both has 12 + 20 = 32 parameters. From 3 x 32 to 2 x 32 over
    # 35 steps: 32 tau^3 / 35^3 is 0.7 after 10 steps, 5.97 after 20, 20.2 after 30; of 2 components 0.05, 0.37, 1.3.
    schedule = plan(projections=2, start_rank=3, rank=2, unit="parameters", rank_cost=32)
    assert list(schedule.events()) == [35, 45, 50]  # the first takes 5 parameters: a component has to go
    assert [schedule.allowed(step) for step in (0, 25, 35, 45, 50, 100)] == [96, 96, 91, 76, 64, 64]
    assert [schedule.budget(step) for step in (0, 25, 35, 45, 50, 100)] == [6, 6, 6, 5, 4, 4]
    assert schedule.describe()["unit"] == "parameters"


def test_the_highest_rank_falls_with_the_budget() -> None:
    # From 12 down to 9: 3 (tau / 35)^3 is 0.07, 0.56, 1.89, 3 at the events.
    schedule = plan(max_rank=9)
    assert [schedule.most(step) for step in (0, 25, 35, 45, 49, 50, 100)] == [12, 12, 12, 11, 11, 9, 9]
    assert {plan(max_rank=bound).most(step) for bound in (None, 12, 40) for step in range(101)} == {12}


def test_an_event_that_prunes_nothing_is_none() -> None:
    # 2 (tau / 35)^3 of 6 components: nothing up to tau 27, one up to 34.
    schedule = plan(projections=2, start_rank=3, rank=2, interval=5)
    assert [schedule.pruned(tau) for tau in range(0, 36, 5)] == [0, 0, 0, 0, 0, 0, 1, 2]
    assert list(schedule.events()) == [45, 50]
    assert schedule.describe()["first_event"] == 45
    assert [schedule.next_event(step) for step in (0, 15, 44, 45, 49, 50)] == [45, 45, 45, 50, 50, None]


def test_equal_ranks_prune_nothing_and_freeze_all_the_same() -> None:
    schedule = plan(start_rank=8)
    assert {schedule.budget(step) for step in range(101)} == {576}
    assert list(schedule.events()) == [50]
    assert schedule.next_event(0) == schedule.describe()["first_event"] == 50


def test_huge_runs_stay_exact() -> None:
    # The cube of 10^9 steps is past the 53 bits of a float.
    total = 4 * 10**9 + 3
    schedule = plan(total_steps=total, warmup_fraction=0.25, final_fraction=0.25, interval=1)
    length = whole(Fraction(total, 2))
    assert schedule.pruning_steps == length
    assert schedule.pruned(length - 1) == 287  # 288 (1 - 1/L)^3 is just below 288
    assert schedule.pruned(length) == 288


def test_describe_holds_the_same_integers() -> None:
    assert plan().describe() == {
        "total_steps": 100,
        "warmup_steps": 15,
        "pruning_steps": 35,
        "freeze_step": 50,
        "final_steps": 50,
        "events": 4,
        "first_event": 25,
        "interval": 10,
        "longest_interval": 10,
        "curve": "published",
        "unit": "components",
        "projections": 72,
        "start_rank": 12,
        "rank": 8,
        "start_components": 864,
        "final_components": 576,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, ["method.rank is 0", "at least 1"]),
        ({"rank": -3}, ["method.rank is -3", "at least 1"]),
        ({"start_rank": 7}, ["method.start_rank is 7", "method.rank 8"]),
        ({"warmup_fraction": -0.1}, ["method.warmup_fraction is -0.1", "[0, 1)"]),
        ({"warmup_fraction": 1.0, "final_fraction": 0.0}, ["method.warmup_fraction is 1.0", "[0, 1)"]),
        ({"final_fraction": 1.5}, ["method.final_fraction is 1.5", "[0, 1)"]),
        ({"final_fraction": -0.5}, ["method.final_fraction is -0.5", "[0, 1)"]),
        ({"warmup_fraction": 0.5}, ["warmup_fraction 0.5", "final_fraction 0.5", "below 1"]),
        ({"interval": 0}, ["method.prune_interval is 0", "at least 1"]),
        ({"wanted_events": 0}, ["method.events is 0", "at least 1"]),
        ({"min_rank": 9}, ["method.min_rank is 9", "method.rank 8"]),
        ({"min_rank": -1}, ["method.min_rank is -1"]),
        ({"max_rank": 7}, ["method.max_rank is 7", "method.rank 8"]),
        ({"projections": 0}, ["no projection", "method.targets"]),
        ({"total_steps": 2}, ["2 optimiser steps", "at least 3 steps", "train.max_steps"]),
        ({"total_steps": 1}, ["has 1 optimiser step, of", "at least 3 steps"]),
        ({"total_steps": 0}, ["0 optimiser steps", "at least 3 steps"]),
    ],
)
def test_a_broken_bound_is_named_with_its_value(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BudgetError) as caught:
        plan(**changes)
    for word in words:
        assert word in str(caught.value)


def test_a_least_rank_of_none_is_not_blamed_for_a_rank_that_is_none() -> None:
    with pytest.raises(BudgetError) as caught:
        plan(rank=-3)
    assert "min_rank" not in str(caught.value)


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(BudgetError) as caught:
        plan(
            rank=0, start_rank=-1, warmup_fraction=1.2, final_fraction=-0.1, interval=0, projections=0, wanted_events=0
        )
    message = str(caught.value)
    keys = (
        "method.rank",
        "method.start_rank",
        "method.warmup_fraction",
        "method.final_fraction",
        "method.prune_interval",
        "method.events",
        "no projection",
    )
    for key in keys:
        assert key in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["warmup_fraction", "final_fraction"])
def test_a_fraction_that_is_no_number_is_a_budget_error(key: str, value: float) -> None:
    with pytest.raises(BudgetError, match=key):
        plan(**{key: value})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 98), st.data())
def test_the_least_number_of_steps_that_is_named_is_enough(w: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(0, 99 - w))
    least = -(-100 // (100 - w - f))
    assert plan(total_steps=least, warmup_fraction=w / 100, final_fraction=f / 100).pruning_steps >= 1
    with pytest.raises(BudgetError, match=f"at least {least} step{'' if least == 1 else 's'}: "):
        plan(total_steps=least - 1, warmup_fraction=w / 100, final_fraction=f / 100)


def test_a_projection_too_small_for_a_variance_is_refused_by_name() -> None:
    with pytest.raises(BudgetError, match=r"gate \(1 x 8\)"):
        new_dora(rank=1).plan(100, [site("q", 8, 8), site("gate", 1, 8)])
    with pytest.raises(BudgetError, match=r"gate \(8 x 1\)"):
        new_dora(rank=1).plan(100, [site("gate", 8, 1)])


@pytest.mark.parametrize(("rank", "start"), [(1, 2), (2, 3), (3, 5), (4, 6), (5, 8), (8, 12), (16, 24)])
def test_start_rank_is_half_again_rounded_up(rank: int, start: int) -> None:
    assert new_dora(rank=rank).start_rank == start
    assert new_dora(rank=rank, alpha=8.0).scaling == 8.0 / start


def test_a_given_start_rank_wins() -> None:
    assert new_dora(rank=2, start_rank=9).plan(100, [site("q", 4, 4)]).start_components == 9
