"""Charts of an experiment: points stand on their values, and what is special about them is marked."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from statistics import mean, stdev
from typing import Any

import pytest

from dora_cli.reports.compare.results import Results
from dora_cli.reports.html.axes import short
from dora_cli.reports.html.compare.rates import rate_charts
from dora_cli.reports.html.compare.scatter import GAP, apart, best_of_chart, size_chart
from dora_cli.reports.html.plane import Axis
from tests.reports.compare.examples import experiment


def tree(figure: str | None) -> ElementTree.Element:
    assert figure is not None
    return ElementTree.fromstring(figure)


def labels(figure: ElementTree.Element, which: str) -> list[tuple[float, float]]:
    found = [span for span in figure.iter("span") if span.get("class") == which]
    return [
        (float((span.text or "").replace(",", "")), 10 * float(re.findall(r":([\d.-]+)%", span.attrib["style"])[0]))
        for span in found
    ]


def places(figure: ElementTree.Element, *looks: str) -> list[tuple[float, float]]:
    """Where the points of a class stand, those of the legend left out."""
    area = next(element for element in figure.iter("div") if element.get("class") == "area")
    return [
        tuple(map(float, re.findall(r"-?[\d.]+", path.attrib["d"])[:2]))  # type: ignore[misc]
        for path in area.iter("path")
        if path.get("class") in looks
    ]


def across(figure: ElementTree.Element, *, log: bool = False) -> Any:
    (v0, x0), (v1, x1) = labels(figure, "x")[0], labels(figure, "x")[-1]
    of = math.log10 if log else float
    return lambda value: x0 + (x1 - x0) * (of(value) - of(v0)) / (of(v1) - of(v0))


def down(figure: ElementTree.Element) -> Any:
    (v0, y0), (v1, y1) = labels(figure, "y")[0], labels(figure, "y")[-1]
    return lambda value: y0 + (y1 - y0) * (value - v0) / (v1 - v0)


# Tuning ---------------------------------------------------------------------------------------------------------------


def tuned(record: dict[str, Any], method: int = 0) -> ElementTree.Element:
    results = Results.of(record)
    return tree(rate_charts(results, results.tasks[0])[method])


@pytest.mark.parametrize("method", [0, 1, 2])
def test_seeds_and_means_stand_over_their_rates(method: int) -> None:
    record = experiment(1, 3, 5)
    figure = tuned(record, method)
    x, y = across(figure, log=True), down(figure)
    tried = record["cells"][method]["tuned"]["tried"]
    seeds = [(one["value"], score) for one in tried for score in one["scores"]]
    assert len(places(figure, "seed")) == len(seeds)
    for (left, top), (value, score) in zip(places(figure, "seed"), seeds, strict=True):
        assert (left, top) == (pytest.approx(x(value), abs=1), pytest.approx(y(score), abs=1))
    means = places(figure, "dot metric")
    for (left, top), one in zip(means, tried, strict=True):
        assert (left, top) == (pytest.approx(x(one["value"]), abs=1), pytest.approx(y(mean(one["scores"])), abs=1))
    (line,) = [path for path in figure.iter("path") if path.get("class") == "line metric"]
    assert re.findall(r"[\d.]+ [\d.]+", line.attrib["d"]) == [
        re.sub(r"\.0(?= |$)", "", f"{a:.1f} {b:.1f}") for a, b in means
    ]


def test_what_is_special_is_marked() -> None:
    record = experiment(1, 1, 5)
    found = record["cells"][0]["tuned"]
    figure = tuned(record)
    x = across(figure, log=True)
    (chosen,) = places(figure, "chosen")
    assert chosen[0] == pytest.approx(x(found["chosen"]), abs=1)
    (band,) = figure.iter("rect")
    left, width = float(band.attrib["x"]), float(band.attrib["width"])
    assert [left, left + width] == [pytest.approx(x(end), abs=1.5) for end in found["band"]]
    added = [one["value"] for one in found["tried"] if one["added"]]
    assert [place[0] for place in places(figure, "hole")] == [pytest.approx(x(value), abs=1) for value in added]
    crosses = [span for span in figure.iter("span") if span.get("class") == "collapsed"]
    assert [span.text for span in crosses] == ["\u00d7"]
    assert f"left:{x(1e-2) / 10:.0f}" in crosses[0].attrib["style"]
    (name,) = [span.text for span in figure.iter("span") if span.get("class") == "chosen-name"]
    assert name == short(found["chosen"])
    said = next(element.get("aria-label") or "" for element in figure.iter("div") if element.get("role") == "img")
    assert all(short(one["value"]) in said for one in found["tried"])
    assert said.count("chosen") == said.count("collapsed") == said.count("added") == 1


def test_charts_of_one_task_have_the_same_axes() -> None:
    record = experiment(1, 4, 5)
    results = Results.of(record)
    figures = [tree(figure) for figure in rate_charts(results, results.tasks[0])]
    assert len(figures) == 4
    for which in ("x", "y"):
        assert len({tuple(labels(figure, which)) for figure in figures}) == 1


def test_what_is_unknown_has_no_chart_or_no_mark() -> None:
    record = experiment(1, 1, 5)
    found = record["cells"][0]["tuned"]
    found["band"] = None
    found["tried"][0]["scores"] = [None]
    figure = tuned(record)
    assert list(figure.iter("rect")) == []
    assert len(places(figure, "dot metric")) == 4
    for one in found["tried"]:
        one["scores"] = [None for _ in one["scores"]]
    results = Results.of(record)
    assert rate_charts(results, results.tasks[0]) == []
    results = Results.of(experiment(1, 1, 5, tune=False))
    assert rate_charts(results, results.tasks[0]) == []
    assert best_of_chart(results, results.tasks[0]) is None


def test_a_diverged_loss_does_not_flatten_the_others() -> None:
    record = experiment(1, 1, 5)
    record["tasks"][0]["lower_is_better"] = True
    record["cells"][0]["tuned"]["tried"][-1]["scores"] = [4e5]
    figure = tuned(record)
    tops = [top for _, top in places(figure, "seed")]
    assert min(tops) < 100, "the diverged one"
    values = [value for value, _ in labels(figure, "y")]
    assert max(values) / min(values) >= 1000, "a logarithmic axis"


def test_a_key_that_is_zero_stands_on_an_axis_without_logarithm() -> None:
    record = experiment(1, 1, 5)
    record["tuning"]["key"] = "method.dropout"
    tried = record["cells"][0]["tuned"]["tried"]
    for index, one in enumerate(tried):
        one["value"] = index / 10
    record["cells"][0]["tuned"] |= {"chosen": 0.1, "band": [0.0, 0.2]}
    figure = tuned(record)
    x = across(figure)
    assert [place[0] for place in places(figure, "dot metric")] == [
        pytest.approx(x(one["value"]), abs=1) for one in tried
    ]
    assert [element.text for element in figure.iter("p")] == ["dropout"]


# Size and tries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", [2, 10])
def test_methods_stand_at_their_size_and_score(methods: int) -> None:
    record = experiment(1, methods, 5)
    results = Results.of(record)
    figure = tree(size_chart(results, results.tasks[0]))
    x, y = across(figure), down(figure)
    marks = places(figure, *(f"{mark} s{index}" for index in range(8) for mark in ("dot big", "square")))
    bars = places(figure, *(f"line s{index}" for index in range(8)))
    for (left, top), (_, low), cell in zip(marks, bars, record["cells"], strict=True):
        scores = [run["score"] for run in cell["runs"]]
        assert left == pytest.approx(x(cell["runs"][0]["stored_parameters"]), abs=1.5)
        assert top == pytest.approx(y(mean(scores)), abs=1)
        assert low == pytest.approx(y(mean(scores) - stdev(scores)), abs=1)
    looks = [
        path.get("class") for path in figure.iter("path") if (path.get("class") or "").startswith(("dot big", "square"))
    ]
    assert len(set(looks)) == methods, "no two look alike"


def test_matched_sizes_do_not_look_far_apart() -> None:
    record = experiment(1, 3, 5)
    for index, cell in enumerate(record["cells"]):
        for run in cell["runs"]:
            run["stored_parameters"] = 36_864 + 100 * index
    results = Results.of(record)
    lefts = [
        left
        for left, _ in places(tree(size_chart(results, results.tasks[0])), "dot big s0", "dot big s1", "dot big s2")
    ]
    assert max(lefts) - min(lefts) < 60, "half a percent apart"


def test_methods_of_one_size_stand_side_by_side() -> None:
    record = experiment(1, 3, 5)
    for cell in record["cells"]:
        for run in cell["runs"]:
            run["stored_parameters"] = 36_864
    results = Results.of(record)
    figure = tree(size_chart(results, results.tasks[0]))
    lefts = [places(figure, f"dot big s{index}")[0][0] for index in range(3)]
    assert lefts == [500 - GAP, 500, 500 + GAP]
    assert apart([0.0, 100.0, 100.0 + GAP / 2, 300.0]) == [0.0, 100 - GAP / 4, 100 + 3 * GAP / 4, 300.0]
    assert apart([]) == []


def test_sizes_of_one_entry_are_joined_and_far_ones_stand_on_a_logarithmic_axis() -> None:
    record = experiment(1, 4, 5, names=["lora r=2", "lora r=8", "dora r=2", "dora r=8"])
    for method in record["methods"]:
        method["entry"] = method["name"].split()[0]
    for cell in record["cells"]:
        for run in cell["runs"]:
            run["stored_parameters"] = (18_432 if "lora" in cell["method"] else 24_576) * int(cell["method"][-1])
    results = Results.of(record)
    figure = tree(size_chart(results, results.tasks[0]))
    joined = [path for path in figure.iter("path") if (path.get("class") or "").startswith("line thin")]
    assert [path.attrib["d"].count("L") for path in joined] == [1, 1]
    x = across(figure, log=True)
    assert places(figure, "dot big s3")[0][0] == pytest.approx(x(8 * 24_576), abs=1.5)


def test_one_method_or_none_with_a_size_has_no_chart_of_sizes() -> None:
    record = experiment(1, 2, 3)
    for run in record["cells"][0]["runs"]:
        run["stored_parameters"] = None
    results = Results.of(record)
    assert size_chart(results, results.tasks[0]) is None


def test_lines_of_ten_methods_are_told_apart() -> None:
    results = Results.of(experiment(1, 10, 3))
    figure = tree(best_of_chart(results, results.tasks[0]))
    legend = next(element for element in figure.iter("ul"))
    looks = {(path.get("class"), path.get("stroke-dasharray")) for path in legend.iter("path")}
    assert len(looks) == 10


def test_the_best_of_so_many_tries() -> None:
    record = experiment(1, 3, 3)
    results = Results.of(record)
    figure = tree(best_of_chart(results, results.tasks[0]))
    x, y = across(figure), down(figure)
    assert [value for value, _ in labels(figure, "x")] == [1, 2, 3, 4, 5]
    for index, cell in enumerate(record["cells"]):
        for (left, top), (k, value) in zip(
            places(figure, f"dot s{index}"), enumerate(cell["tuned"]["expected_best"], start=1), strict=True
        ):
            assert (left, top) == (pytest.approx(x(k), abs=1), pytest.approx(y(value), abs=1))


# Axes -----------------------------------------------------------------------------------------------------------------


def test_an_axis_has_room_for_its_values() -> None:
    for values, log in (
        ((0.1, 0.9), False),
        ((1e-4, 1e-2), True),
        ((5.0,), False),
        ((0.0,), False),
        ((-1.0, 3.0), True),
    ):
        axis = Axis.around(values, log=log)
        assert all(0 < axis.share(value) < 1 for value in values)
        assert axis.marks(5)
        assert all(0 <= axis.share(mark) <= 1 for mark in axis.marks(5))
    assert not Axis.around((-1.0, 3.0), log=True).log, "no logarithm below 0"
    wide = Axis.around((99.0, 101.0), least=0.5)
    assert wide.high - wide.low == pytest.approx(50)
