"""What a dry run says of events and of the final size, by what the budget counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from dora_cli.methods.adalora import AdaloraSchedule
from dora_cli.methods.dora import DoraSchedule
from dora_cli.methods.low_rank.schedule import PruningSchedule
from dora_cli.reports.dry_run import print_dry_run

SIZES = {"projections": 2, "per_rank": 32, "start": 96, "final": 64, "head": 5}
COMMON: dict[str, Any] = {
    "total_steps": 100,
    "projections": 2,
    "start_rank": 3,
    "rank": 2,
    "warmup_fraction": 0.15,
    "final_fraction": 0.5,
    "interval": 10,
}


@dataclass(frozen=True)
class Run:
    """A dry run of a method with this schedule."""

    schedule: Mapping[str, Any]
    phases: Sequence[tuple[str, int, int]]
    rows: Sequence[tuple[str, str]] = (("device", "cpu"),)
    parameters: Mapping[str, int | None] | None = None
    out_of_reach: str | None = None


def said(schedule: PruningSchedule) -> dict[str, str]:
    """What is printed, by the words that begin each line."""
    console = Console(width=200)
    with console.capture() as captured:
        print_dry_run(console, Run(schedule.describe(), schedule.phases, parameters=SIZES), "task: e2e")
    pairs = (line.strip().partition("  ") for line in captured.get().splitlines())
    return {name: value.strip() for name, _, value in pairs}


@pytest.mark.parametrize(
    ("changes", "events"),
    [
        ({}, "2, first after step 45, every 10 steps, published curve"),
        ({"wanted_events": 5}, "2, first after step 43, every 7 steps, published curve"),
        ({"wanted_events": 4, "curve": "adalora"}, "4, first after step 23, every 8 or 9 steps, adalora curve"),
    ],
)
def test_events(changes: dict[str, Any], events: str) -> None:
    assert said(DoraSchedule.plan(**COMMON, **changes))["events"] == events


def test_events_of_another_method() -> None:
    assert said(AdaloraSchedule.plan(**COMMON))["events"].endswith("every 10 steps, adalora curve")


def test_the_final_size_is_a_bound_where_the_budget_counts_parameters() -> None:
    components, parameters = (
        said(DoraSchedule.plan(**COMMON, unit=unit, rank_cost=cost))["adapter, final"]
        for unit, cost in (("components", 2), ("parameters", 32))
    )
    assert components == "64 if ranks end up uniform; the budget counts components, not parameters"
    assert parameters == "64 at most; the budget counts parameters"
