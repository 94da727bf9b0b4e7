"""How many runs of each method diverged and collapsed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora_cli.reports.compare.lost import losses
from dora_cli.reports.compare.markdown import escaped, markdown
from dora_cli.reports.compare.results import Lost, Results
from dora_cli.reports.html.compare.page import experiment_page
from tests.reports.compare.examples import experiment
from tests.reports.compare.test_terminal import shown, words


def record_with_losses() -> dict[str, Any]:
    """Two tasks: of the first method 6 measured runs, of which 2 collapsed, 1 of them diverged."""
    record = experiment(2, 2, 3)
    first = [cell for cell in record["cells"] if cell["method"] == record["methods"][0]["name"]]
    first[0]["runs"][1] |= {"outcome": "diverged", "collapsed": True}
    first[1]["runs"][2] |= {"collapsed": True}
    first[1]["runs"][0] |= {"outcome": "missing", "score": None, "collapsed": True}
    for cell in record["cells"]:
        for one in cell["tuned"]["tried"]:
            one |= {"collapsed": 0, "diverged": 0}
    first[0]["tuned"]["tried"][2] |= {"collapsed": 2, "diverged": 2}
    first[1]["tuned"]["tried"][3] |= {"collapsed": 1, "diverged": 0}
    return record


def test_they_are_counted_by_method_over_all_tasks() -> None:
    record = record_with_losses()
    name = record["methods"][0]["name"]
    tried = sum(
        len(one["scores"]) for cell in record["cells"] if cell["method"] == name for one in cell["tuned"]["tried"]
    )
    (said,) = losses(Results.of(record))
    measured, tuned = "2 of 5 measured runs collapsed, 1 of them", f"3 of {tried} tuning runs collapsed, 2 of them"
    assert said == f"{name}: {measured} diverged; {tuned} diverged"


def test_an_older_record_does_not_say_what_diverged_of_the_tuning() -> None:
    record = record_with_losses()
    for cell in record["cells"]:
        for one in cell["tuned"]["tried"]:
            del one["diverged"]
    (said,) = losses(Results.of(record))
    assert said.endswith("tuning runs collapsed")


def test_what_collapsed_without_diverging() -> None:
    record = record_with_losses()
    cells = [cell for cell in record["cells"] if cell["method"] == record["methods"][0]["name"]]
    cells[0]["runs"][1]["outcome"] = "finished"
    (said,) = losses(Results.of(record))
    assert ": 2 of 5 measured runs collapsed, none diverged; " in said


def test_without_any_nothing_is_said() -> None:
    record = record_with_losses()
    for cell in record["cells"]:
        for run in cell["runs"]:
            run["collapsed"] = False
        for one in cell["tuned"]["tried"]:
            one["collapsed"] = 0
    assert losses(Results.of(record)) == []


def in_a_terminal(record: dict[str, Any]) -> str:
    return words(shown(record))


def as_markdown(record: dict[str, Any]) -> str:
    return markdown(Results.of(record))


def as_a_page(record: dict[str, Any]) -> str:
    return experiment_page(Results.of(record), Path("/nowhere"))


@pytest.mark.parametrize("show", [in_a_terminal, as_markdown, as_a_page])
def test_every_report_says_so(show: Callable[[dict[str, Any]], str]) -> None:
    record = record_with_losses()
    (said,) = losses(Results.of(record))
    assert (escaped(said) if show is as_markdown else said) in show(record)


def test_a_page_has_the_counts_of_each_task() -> None:
    page = as_a_page(record_with_losses())
    assert "1 of 3, 1 diverged" in page, "measured runs of the first task"
    assert "2 of 2, 2 diverged" in page, "tuning runs of a value"
    assert str(Lost(10, 3, 1)) == "3 of 10, 1 diverged"
    assert str(Lost(10, 3, None)) == str(Lost(10, 3, 0)) == "3 of 10"
