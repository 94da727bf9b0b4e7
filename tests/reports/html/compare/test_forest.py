"""The forest plot: every difference stands where the axis says, with its interval, the margin and zero."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import SHORT
from dora_cli.reports.html.compare.forest import forest
from tests.reports.compare.examples import MARGIN, experiment, pooled

HALF = 0.06
"""Half of the last digit that a coordinate is written with, and a little."""


def drawn(record: dict[str, Any]) -> ElementTree.Element:
    figure = forest(Results.of(record))
    assert figure is not None
    return ElementTree.fromstring(figure)


def rows(figure: ElementTree.Element) -> list[ElementTree.Element]:
    return [row for row in figure.iter("tr") if row.get("class")]


def ends(row: ElementTree.Element, look: str) -> tuple[float, float] | None:
    """Where a line or point of the row begins and ends, from 0 to 1000."""
    for path in row.iter("path"):
        if path.get("class") == look:
            first, *rest = re.findall(r"(-?[\d.]+) ", path.attrib["d"])
            return float(first), float(rest[0] if rest else first)
    return None


def scale(figure: ElementTree.Element) -> Any:
    """From a value to its place, read off the labels of the axis."""
    ticks = [
        (
            float((span.text or "").replace("\u2212", "-")),
            10 * float(re.findall(r":([\d.-]+)%", span.attrib["style"])[0]),
        )
        for span in figure.iter("span")
        if span.get("class") == "x"
    ]
    (v0, x0), (v1, x1) = ticks[0], ticks[-1]
    return lambda value: x0 + (x1 - x0) * (value - v0) / (v1 - v0)


@pytest.mark.parametrize(
    ("tasks", "methods", "seeds", "effect"), [(1, 2, 3, 0.0), (2, 3, 10, 0.02), (5, 10, 30, -0.004)]
)
def test_every_mark_stands_on_its_value(tasks: int, methods: int, seeds: int, effect: float) -> None:
    record = experiment(tasks, methods, seeds, effect=effect)
    figure = drawn(record)
    place = scale(figure)
    found = iter(rows(figure))
    for comparison in record["comparisons"]:
        for tested in (comparison, *(comparison["by_task"] if tasks > 1 else ())):
            row = next(found)
            assert ends(row, "point")[0] == pytest.approx(place(tested["mean"]), abs=0.5)
            low, high = ends(row, "interval")
            assert low == pytest.approx(place(tested["low"]), abs=0.5)
            assert high == pytest.approx(place(tested["high"]), abs=0.5)
            assert ends(row, "zero")[0] == pytest.approx(place(0), abs=0.5)
            (margin,) = row.iter("rect")
            left, width = float(margin.attrib["x"]), float(margin.attrib["width"])
            assert left == pytest.approx(place(-MARGIN), abs=0.5)
            assert left + width == pytest.approx(place(MARGIN), abs=0.5)
            assert 0 - HALF <= low <= high <= 1000 + HALF
    assert next(found, None) is None


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_pooled_comparison_stands_over_its_parts(tasks: int) -> None:
    record = pooled(tasks, (1, 2, 8))
    figure = drawn(record)
    place = scale(figure)
    (comparison,) = record["comparisons"]
    found = rows(figure)
    for row, tested in zip(found, (comparison, *comparison["by_task"]), strict=True):
        assert ends(row, "point")[0] == pytest.approx(place(tested["mean"]), abs=0.5)
    names = ["".join(next(row.iter("th")).itertext()) for row in found]
    assert names == ["dora", *(f"{task}, rank={rank}" for task in ("rte", "cola")[:tasks] for rank in (1, 2, 8))]


def test_a_row_has_its_numbers_for_who_does_not_see_it() -> None:
    record = experiment(2, 2, 10)
    (comparison,) = record["comparisons"]
    first, *each = rows(drawn(record))
    cells = [
        "".join(cell.itertext()) for cell in first.iter() if cell.tag in ("th", "td") and cell.get("class") != "drawn"
    ]
    assert cells[:2] == ["dora", f"{comparison['mean']:+.4f}".replace("-", "\u2212")]
    assert cells[-1] == SHORT[comparison["verdict"]]
    assert first.get("class") == f"all {comparison['verdict']}"
    assert [row[0].text for row in each] == ["rte", "cola"]
    assert [svg.get("aria-hidden") for svg in drawn(record).iter("svg")] == ["true"] * 3


def test_what_is_unknown_is_not_drawn() -> None:
    record = experiment(1, 2, 10, margin=False)
    record["comparisons"][0] |= dict.fromkeys(("low", "high"))
    (row,) = rows(drawn(record))
    assert ends(row, "interval") is None
    assert ends(row, "point") is not None
    assert list(row.iter("rect")) == []
    record["comparisons"][0] |= {"mean": None}
    record["comparisons"][0]["by_task"] = []
    assert forest(Results.of(record)) is None
    record["comparisons"] = []
    assert forest(Results.of(record)) is None


def test_numbers_that_no_axis_can_hold() -> None:
    record = experiment(1, 3, 10)
    record["comparisons"][0] |= {"mean": 1e300, "low": -1e308, "high": 1e308}
    first, second = rows(drawn(record))
    assert ends(first, "point") is None
    assert ends(first, "interval") is None
    assert ends(second, "interval") is not None


def test_baselines_of_their_own_setting_are_named() -> None:
    record = experiment(1, 4, 5, names=["lora r=2", "lora r=8", "dora r=2", "dora r=8"])
    record["comparisons"][2]["baseline"] = "lora r=8"
    names = [row[0].text for row in rows(drawn(record))]
    assert names == [f"{found['method']} \u2212 {found['baseline']}" for found in record["comparisons"]]
