"""Charts: values stand where they belong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from dora_cli.reports.html.chart import POINTS, SIZE, Line, chart, thinned


def drawn(*lines: Line, **options: object) -> ElementTree.Element:
    figure = chart("Loss", lines, **options)  # type: ignore[arg-type]
    assert figure is not None
    return ElementTree.fromstring(figure)


def path(figure: ElementTree.Element) -> str:
    return next(element.attrib["d"] for element in figure.iter("path") if "line" in element.get("class", "").split())


def points(d: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", d)]


def axis(figure: ElementTree.Element, which: str) -> list[tuple[str, float]]:
    """Labels of an axis and where they stand, from 0 to `SIZE`."""
    found = [element for element in figure.iter("span") if element.get("class") == which]
    return [
        (element.text or "", 10 * float(re.findall(r":([\d.-]+)%", element.get("style", ""))[0])) for element in found
    ]


def numbers(figure: ElementTree.Element, which: str) -> list[float]:
    return [float(label.replace(",", "")) for label, _ in axis(figure, which)]


def test_a_line_stands_on_its_axes() -> None:
    """The labels of the axes say where values stand; each point of the line must agree with them."""
    steps, values = (1, 50, 100), (3.0, 1.0, 2.0)
    figure = drawn(Line("", steps, values, "loss"))
    across, up = ([(float(label), place) for label, place in axis(figure, which)] for which in ("x", "y"))
    (s0, x0), (s1, x1) = across[0], across[-1]
    (v0, y0), (v1, y1) = up[0], up[-1]
    found = points(path(figure))
    assert len(found) == 3
    for (x, y), step, value in zip(found, steps, values, strict=True):
        assert x == pytest.approx(x0 + (x1 - x0) * (step - s0) / (s1 - s0), abs=1)
        assert y == pytest.approx(y0 + (y1 - y0) * (value - v0) / (v1 - v0), abs=1)
        assert 0 <= x <= SIZE
        assert 0 <= y <= SIZE


@pytest.mark.parametrize(("values", "negative"), [((0.7, 0.001), False), ((0.7, 0.0), False), ((0.4, -0.3), True)])
def test_an_axis_goes_below_zero_only_where_values_do(values: tuple[float, ...], negative: bool) -> None:
    figure = drawn(Line("", (1, 2), values, "loss"))
    assert (min(numbers(figure, "y")) < 0) == negative
    if not negative:
        zero = dict(axis(figure, "y")).get("0")
        assert zero is None or zero == SIZE, "nothing is below it"


def test_one_value_is_no_chart() -> None:
    """A run of one epoch: a circle alone says less than the table."""
    assert chart("Accuracy", [Line("", (125,), (0.7,), "metric", points=True)]) is None
    assert chart("Accuracy", [Line(str(seed), (125,), (0.7,), "metric", points=True) for seed in (1, 2)]) is None
    assert chart("Accuracy", [Line("", (1, 2, 3), (None, 0.7, None), "metric")]) is None
    beside = drawn(
        Line("one", (125,), (0.7,), "s0", points=True), Line("many", (125, 250), (0.7, 0.8), "s1", points=True)
    )
    assert len([element for element in beside.iter("path") if "dot" in element.get("class", "")]) == 3


def test_a_short_run_is_as_wide_as_a_long_one_over_shares() -> None:
    lines = [
        Line("short", (10, 40), (0.7, 0.6), "s0", length=40),
        Line("long", (500, 1000), (0.7, 0.1), "s1", length=1000),
    ]
    figure = drawn(*lines, shares=True)
    ends = [
        points(element.attrib["d"])[-1][0]
        for element in figure.iter("path")
        if element.get("class") in ("line s0", "line s1")
    ]
    assert ends[:2] == [SIZE, SIZE]
    assert [label for label, _ in axis(figure, "x")] == ["0 %", "25 %", "50 %", "75 %", "100 %"]


def test_small_numbers_are_told_apart_beside_large_ones_on_a_logarithmic_axis() -> None:
    lines = [Line("small", (0, 10), (54, 36), "s0", stairs=True), Line("large", (0, 10), (864, 576), "s1", stairs=True)]
    assert min(numbers(drawn(*lines, from_zero=True), "y")[1:]) >= 200, "the small ones are below the first tick"
    figure = drawn(*lines, log=True, from_zero=True)
    assert numbers(figure, "y") == [50, 100, 200, 500, 1000]
    small, large = (re.findall(r"[MV](?:[\d.]+ )?([\d.]+)", element.attrib["d"]) for element in figure.iter("path")
                    if element.get("class") in ("line s0", "line s1") and element.attrib["d"] != "M1 5H25")  # fmt: skip
    fall = [float(line[1]) - float(line[0]) for line in (small, large)]
    assert fall[0] == pytest.approx(fall[1], abs=0.3), "both lose a third"
    assert fall[0] > 80
    assert numbers(drawn(Line("", (0, 1), (0, 5), "s0"), log=True), "y")[0] == 0, "no logarithm of 0"


def test_what_is_unknown_is_a_gap() -> None:
    d = path(drawn(Line("", (1, 2, 3, 4, 5), (1.0, None, 2.0, 3.0, float("nan")), "loss")))
    assert re.sub(r"[\d. ]+", "", d.replace("h.01", "")) == "MML"
    assert "nan" not in d
    assert chart("Loss", [Line("", (1, 2), (None, float("inf")), "loss")]) is None
    assert chart("Loss", []) is None


def test_stairs_are_level_until_the_next_value() -> None:
    d = path(drawn(Line("", (0, 10, 20, 100), (12, 12, 8, 8), "loss", stairs=True), from_zero=True))
    assert re.sub(r"[\d. ]+", "", d) == "MHVH"


def test_equal_values() -> None:
    assert len(points(path(drawn(Line("", (1, 2, 3), (0.0, 0.0, 0.0), "loss"))))) == 3


def test_a_long_log_is_drawn_through_means() -> None:
    line = Line("loss", range(1, 1001), [float(step % 2) for step in range(1, 1001)], "loss")
    thin = thinned(line)
    assert len(thin.steps) <= POINTS
    assert thin.steps[-1] == 1000
    assert thin.values[0] == pytest.approx(sum(line.values[:5]) / 5)
    stairs = Line("live", range(1, 1001), [1.0] * 1000, "loss", stairs=True)
    assert thinned(stairs) is stairs


def test_phases_points_and_names() -> None:
    figure = drawn(
        Line("seed <1>", (10, 20), (0.5, 0.6), "loss", dash=(6, 2), points=True, selected=20),
        phases=[("warm-up", 1, 10), ("final", 11, 20)],
        note="a & b",
    )
    assert [element.get("class") for element in figure.iter("rect")] == ["shade-warm-up", "shade-final"]
    assert [element.text for element in figure.iter("title")] == [
        "seed <1>: 0.5000 at step 10",
        "seed <1>: 0.6000 at step 20",
    ]
    marks = [element.get("class") for element in figure.iter("path") if element.attrib["d"].endswith("h.01")]
    assert marks == ["dot loss", "ring loss", "hole"]
    assert figure.find("ul/li/svg") is not None
    (area,) = [element for element in figure.iter("div") if element.get("role") == "img"]
    assert area.get("aria-label") == "Loss: seed <1> 0.5000 at step 10, 0.6000 at step 20"
    assert [element.text for element in figure.iter("p")] == ["optimiser step", "a & b"]


def test_a_phase_that_nobody_knows_has_a_shade() -> None:
    figure = drawn(Line("", (1, 2), (1.0, 2.0), "loss"), phases=[('x" y', 1, 2)])
    assert [element.get("class") for element in figure.iter("rect")] == ["shade-final"]
