"""When links follow one another: by counting."""

from __future__ import annotations

import pytest

from dora_cli.errors import BudgetError
from dora_cli.methods.low_rank.links import LinkSchedule


@pytest.mark.parametrize(("steps", "links"), [(7, 3), (12, 4), (5, 5), (10, 1)])
@pytest.mark.parametrize("tied_at_end", [False, True])
def test_every_step_belongs_to_one_link(steps: int, links: int, tied_at_end: bool) -> None:
    schedule = LinkSchedule.plan(steps, range(1, links + 1), noun="link", anew=True, tied_at_end=tied_at_end)
    ends = [steps * link // links for link in range(1, links + 1)]
    of_step = [sum(end < step for end in ends) + 1 for step in range(1, steps + 1)]
    assert [schedule.link(step) for step in range(1, steps + 1)] == of_step
    lengths = [of_step.count(link) for link in range(1, links + 1)]
    assert max(lengths) - min(lengths) <= 1
    events = ends if tied_at_end else ends[:-1]
    assert [step for step in range(1, steps + 1) if schedule.is_event(step)] == events == list(schedule.events())
    assert schedule.freeze_step == (events[-1] if events else 0)
    assert schedule.restarts == ends[:-1]
    for step in range(steps + 1):
        assert schedule.next_event(step) == next((end for end in events if end > step), None)
    for step in range(1, steps + 1):
        begun = of_step[step - 1] + (step in ends[:-1])
        assert schedule.budget(step) == begun * (begun + 1) // 2
    assert [name for name, *_ in schedule.phases] == [f"link {link}" for link in range(1, links + 1)]
    assert schedule.final_components == links * (links + 1) // 2


def test_a_link_without_a_step_is_refused() -> None:
    with pytest.raises(BudgetError, match="2 optimiser steps for 3 boosters"):
        LinkSchedule.plan(2, (1, 1, 1), noun="booster", anew=False)
