"""Which grids grew, from which values to which, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dora_cli.reports.compare.grown import growths
from dora_cli.reports.compare.markdown import escaped, markdown
from dora_cli.reports.compare.results import Results
from tests.reports.compare.examples import experiment
from tests.reports.compare.test_terminal import shown, words

GRID = (1e-4, 1e-3, 1e-2)


def record_of(*added: Sequence[float]) -> dict[str, Any]:
    """An experiment on two tasks whose first method tried some values more than the grid, on the one and the other."""
    record = experiment(2, 2, 3)
    record["tuning"]["grid"] = list(GRID)
    first = record["methods"][0]["name"]
    theirs = iter(added)
    for cell in record["cells"]:
        one = cell["tuned"]["tried"][0] | {"seeds": [1], "scores": [0.5], "collapsed": 0, "diverged": 0}
        more = next(theirs) if cell["method"] == first else ()
        cell["tuned"]["tried"] = [one | {"value": rate, "added": rate in more} for rate in sorted([*GRID, *more])]
        cell["tuned"]["chosen"] = GRID[0]
    return record


def test_what_grew_is_said_by_method_with_its_tasks() -> None:
    record = record_of((1e-5,), (0.1, 1.0))
    name, (a, b) = record["methods"][0]["name"], (task["name"] for task in record["tasks"])
    start, why = f"{name}: the grid of {record['tuning']['key']} (0.0001 to 0.01) grew", "since the best value lay"
    low, high = f"(1e-05 to 0.01), {why} at its edge", f"(0.0001 to 1), {why} at its edge"
    assert growths(Results.of(record)) == [f"{start} on {a} {low}; on {b} {high}"]
    assert growths(Results.of(record_of((1e-5,), (1e-5,)))) == [f"{start} on {a}, {b} {low}"]
    assert growths(Results.of(record_of((), (0.1, 1.0)))) == [f"{start} on {b} {high}"]


def test_without_growth_or_tuning_nothing_is_said() -> None:
    record = record_of((), ())
    assert growths(Results.of(record)) == []
    record["tuning"] = None
    for cell in record["cells"]:
        cell["tuned"] = None
    assert growths(Results.of(record)) == []


def test_a_grid_in_which_all_diverged_grew_for_that() -> None:
    record = record_of((1e-5,), ())
    (cell, *_) = record["cells"]
    tried = cell["tuned"]["tried"][1:]
    for one in tried:
        one |= {"collapsed": 1, "diverged": 1}  # with the score of saying the same
    (said,) = growths(Results.of(record))
    assert said.endswith(" (1e-05 to 0.01), since no run in it had a score")
    for one in tried:
        one |= {"diverged": None, "scores": [None]}  # an older record, on a task that knows no such score
    assert growths(Results.of(record)) == [said]
    tried[0] |= {"collapsed": 0, "diverged": 0, "scores": [0.5]}
    (said,) = growths(Results.of(record))
    assert said.endswith("since the best value lay at its edge")


def test_terminal_and_markdown_say_so() -> None:
    record = record_of((1e-5,), ())
    (said,) = growths(Results.of(record))
    assert said in words(shown(record))
    assert escaped(said) in markdown(Results.of(record))
