"""Charts: values stand where they belong."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from dora_cli.reports.html.chart import HEIGHT, POINTS, WIDTH, Line, chart, thinned

COLOUR = "#0072b2"


def drawn(*lines: Line, **options: object) -> ElementTree.Element:
    figure = chart("Loss", lines, **options)  # type: ignore[arg-type]
    assert figure is not None
    return ElementTree.fromstring(figure)


def path(figure: ElementTree.Element) -> str:
    return next(element.attrib["d"] for element in figure.iter("path") if element.get("class") == "line")


def points(d: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", d)]


def test_a_line_stands_on_its_axes() -> None:
    """The labels of the axes say where values stand; each point of the line must agree with them."""
    steps, values = (1, 50, 100), (3.0, 1.0, 2.0)
    figure = drawn(Line("", steps, values, COLOUR))
    texts = [(element.text or "", float(element.attrib["x"]), float(element.attrib["y"])) for element in figure.iter("text")]
    across = [(float(label), x) for label, x, y in texts if y == HEIGHT - 36 + 15]
    up = [(float(label), y - 4) for label, x, y in texts if re.fullmatch(r"[\d.]+", label) and y < HEIGHT - 36]
    (s0, x0), (s1, x1) = across[0], across[-2]
    (v0, y0), (v1, y1) = up[0], up[-1]
    found = points(path(figure))
    assert len(found) == 3
    for (x, y), step, value in zip(found, steps, values, strict=True):
        assert x == pytest.approx(x0 + (x1 - x0) * (step - s0) / (s1 - s0), abs=0.3)
        assert y == pytest.approx(y0 + (y1 - y0) * (value - v0) / (v1 - v0), abs=0.3)
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_what_is_unknown_is_a_gap() -> None:
    d = path(drawn(Line("", (1, 2, 3, 4, 5), (1.0, None, 2.0, 3.0, float("nan")), COLOUR)))
    assert re.sub(r"[\d. ]+", "", d.replace("h0", "")) == "MML"
    assert "nan" not in d
    assert chart("Loss", [Line("", (1, 2), (None, float("inf")), COLOUR)]) is None
    assert chart("Loss", []) is None


def test_stairs_are_level_until_the_next_value() -> None:
    d = path(drawn(Line("", (0, 10, 20, 100), (12, 12, 8, 8), COLOUR, stairs=True), from_zero=True))
    assert re.sub(r"[\d. ]+", "", d) == "MHVH"


def test_equal_values_and_a_single_step() -> None:
    assert points(path(drawn(Line("", (7,), (0.5,), COLOUR))))
    assert len(points(path(drawn(Line("", (1, 2, 3), (0.0, 0.0, 0.0), COLOUR))))) == 3


def test_a_long_log_is_drawn_through_means() -> None:
    line = Line("loss", range(1, 1001), [float(step % 2) for step in range(1, 1001)], COLOUR, stairs=False)
    thin = thinned(line)
    assert len(thin.steps) <= POINTS
    assert thin.steps[-1] == 1000
    assert thin.values[0] == pytest.approx(sum(line.values[:5]) / 5)
    stairs = Line("live", range(1, 1001), [1.0] * 1000, COLOUR, stairs=True)
    assert thinned(stairs) is stairs


def test_phases_points_and_names() -> None:
    figure = drawn(
        Line("seed <1>", (10, 20), (0.5, 0.6), COLOUR, dash=(6, 2), points=True, selected=20),
        phases=[("warm-up", 1, 10), ("final", 11, 20)],
        note="a & b",
    )
    assert [element.get("fill") for element in figure.iter("rect")] == ["#f4ead5", "#f6f7f9"]
    assert [element.text for element in figure.iter("title")] == ["seed <1>: 0.5000 at step 10", "seed <1>: 0.6000 at step 20"]
    assert [element.get("r") for element in figure.iter("circle")] == ["2.4", "4.5"]
    assert figure.find("ul/li/svg") is not None
    svg = figure.find("svg")
    assert svg is not None
    assert svg.get("aria-label") == "Loss: seed <1> 0.5000 at step 10, 0.6000 at step 20"
    assert [element.text for element in figure.iter("p")] == ["a & b"]
