"""The chart of a budget over steps."""

from __future__ import annotations

import pytest

from dora_cli.reports.curves import BudgetCurve
from dora_cli.reports.ranks.history import history
from tests.reports.shown import ascii_text, text

CURVE = BudgetCurve(
    steps=(0, 10, 20, 30, 40),
    budget=(100, 100, 75, 50, 50),
    live=(100, 100, 75, 50, 50),
    events=(10, 20, 30),
    freeze=30,
    phases=(("warm-up", 1, 10), ("pruning", 11, 30), ("final", 31, 40)),
)


def test_the_chart_of_a_budget_in_ascii():
    assert ascii_text(history(CURVE)).splitlines() == [
        "Live components over steps",
        "100 |" + "#" * 37,
        *["    |" + "#" * 37] * 1,
        *["    |" + "#" * 55] * 3,
        " 50 |" + "#" * 75,
        *["    |" + "#" * 75] * 3,
        "  0 |" + "#" * 75,
        "    +" + "-" * 75,
        "     0                10                                    30                40",
        "           warm-up     |               pruning               |      final",
        "",
        "warm-up  steps 1 to 10, 1 event",
        "pruning  steps 11 to 30, 2 events, freeze after step 30",
        "final    steps 31 to 40",
        "100 -> 50 components in 40 steps",
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_chart_fits(width: int):
    lines = text(history(CURVE), width).splitlines()
    assert max(map(len, lines[:14])) <= min(width, 110)
    assert lines[1].startswith("100 \u2502\u2588")
    assert [line[4] for line in lines[1:12]] == ["\u2502"] * 10 + ["\u2514"]


def test_the_budget_is_drawn_where_it_is_not_what_lives():
    curve = BudgetCurve((0, 10), (100, 80), (100, 40), (), None, (("training", 1, 10),))
    shown = text(history(curve))
    assert "\u2500" in shown.splitlines()[3]
    assert "100 -> 40 components in 10 steps; the budget is 80" in shown


def test_a_curve_of_one_point_is_drawn():
    curve = BudgetCurve((5,), (7,), (7,), (), None, (("warm-up", 1, 5),))
    assert "7 components through 5 steps" in text(history(curve))
