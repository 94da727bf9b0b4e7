"""Stages and counts in integers."""

from __future__ import annotations

from typing import Any

import pytest

from dora_cli.errors import BudgetError
from dora_cli.methods.sora import SoraSchedule

SETTINGS: dict[str, Any] = {
    "total_steps": 10_920,  # 140 epochs of 78 steps
    "projections": 72,
    "rank": 8,
    "threshold": 0.0,
    "max_threshold": 7e-4,
    "stages": 7,
    "first_fraction": 0.3572,
}


def plan(**changes: Any) -> SoraSchedule:
    return SoraSchedule.plan(**(SETTINGS | changes))


def test_the_published_scheduler_in_steps() -> None:
    """RTE: 50 epochs without a threshold, then six times 15 epochs, up to 7e-4 in equal steps."""
    schedule = plan()
    assert schedule.ends == tuple(78 * epochs for epochs in (50, 65, 80, 95, 110, 125, 140))
    assert schedule.thresholds == pytest.approx([7e-4 * k / 6 for k in range(7)], rel=1e-12)
    assert schedule.thresholds[-1] == 7e-4
    assert schedule.restarts == schedule.ends[:-1]
    assert schedule.phases == tuple(
        (f"stage {k + 1}", first, last)
        for k, (first, last) in enumerate(zip((1, *(end + 1 for end in schedule.ends)), schedule.ends, strict=False))
    )
    for name, first, last in schedule.phases:
        assert {schedule.phase(first), schedule.phase(last)} == {name}
        assert schedule.threshold(first) == schedule.threshold(last) == schedule.thresholds[int(name[-1]) - 1]


def test_without_a_highest_threshold_there_is_one_stage() -> None:
    schedule = plan(max_threshold=None, threshold=3e-4, total_steps=101, stages=1)
    assert (schedule.ends, schedule.thresholds, schedule.restarts) == ((101,), (3e-4,), ())
    assert schedule.phases == (("training", 1, 101),)
    # every ceil(101 / 50) = 3 steps, and the last one
    assert list(schedule.events()) == [*range(3, 100, 3), 101]


@pytest.mark.parametrize(
    ("total", "stages", "fraction"), [(200, 4, 0.4), (97, 3, 0.36), (7, 7, 0.15), (50, 2, 0.5), (1000, 7, 0.36)]
)
def test_stages_share_the_steps_and_counts_come_often_enough(total: int, stages: int, fraction: float) -> None:
    schedule = plan(total_steps=total, stages=stages, first_fraction=fraction)
    lengths = [last - first + 1 for _, first, last in schedule.phases]
    assert sum(lengths) == total
    assert len(lengths) == stages
    assert max(lengths[1:]) - min(lengths[1:]) <= 1
    assert min(lengths) >= 1
    events = list(schedule.events())
    interval = -(-total // 50)
    assert events == sorted({*range(interval, total, interval), *schedule.ends})
    assert [step for step in range(1, total + 2) if schedule.is_event(step)] == events
    for step in range(total + 1):
        assert schedule.next_event(step) == next((event for event in events if event > step), None)


def test_there_is_no_budget_and_no_freeze() -> None:
    schedule = plan()
    assert (schedule.start_components, schedule.final_components, schedule.freeze_step) == (576, None, 0)
    assert {schedule.budget(step) for step in (1, 5000, 10_920)} == {576}
    assert schedule.describe() == {
        "total_steps": 10_920,
        "freeze_step": 0,
        "events": 56,  # 49 multiples of 219, and 7 ends of stages
        "first_event": 219,
        "interval": 219,
        "thresholds": list(schedule.thresholds),
        "projections": 72,
        "start_rank": 8,
        "start_components": 576,
        "final_components": None,
    }


def test_a_step_for_every_stage_is_enough() -> None:
    assert plan(total_steps=9, first_fraction=0.4).ends == (3, 4, 5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_steps": 0, "max_threshold": None}, ["0 optimiser steps"]),
        ({"rank": 0}, ["method.rank is 0"]),
        ({"projections": 0}, ["no projection"]),
        ({"stages": 1}, ["threshold_stages is 1"]),
        ({"threshold": 7e-4}, ["max_gate_threshold is 0.0007", "above method.gate_threshold 0.0007"]),
        ({"first_fraction": 1.0}, ["first_stage_fraction is 1.0"]),
        ({"total_steps": 2}, ["2 optimiser steps", "= 0"]),
        ({"total_steps": 9, "first_fraction": 0.45}, ["9 optimiser steps", "the first of 7 stages gets", "= 4"]),
        ({"rank": 0, "projections": 0, "stages": 0}, ["rank", "no projection", "threshold_stages"]),
    ],
)
def test_what_does_not_go_together_is_one_message(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BudgetError) as error:
        plan(**changes)
    for word in words:
        assert word in str(error.value)
