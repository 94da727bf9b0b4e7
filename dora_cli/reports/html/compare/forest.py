"""The forest plot: each method's difference to its baseline with its interval, over all tasks and on each.

It is a table whose middle column is drawn, so that whoever cannot see the picture has its numbers row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import SHORT, each_place, interval, p_value, signed, typeset
from dora_cli.reports.html.axes import labels
from dora_cli.reports.html.elements import Markup, tag
from dora_cli.reports.html.plane import SIZE, Axis, at, dot, drawable, stroke
from dora_cli.reports.html.tables import dashed
from dora_cli.reports.units import number
from dora_cli.runs.records.comparison import ComparisonOfRecord, TestedRecord

TICKS = 5
MIDDLE = SIZE / 2
COLUMNS = 6


def forest(results: Results) -> Markup | None:
    """The figure; None where no difference is known."""
    comparisons = results.record.comparisons
    axis = forest_axis(comparisons)
    if axis is None:
        return None
    baselines = list(dict.fromkeys(found.baseline for found in comparisons))
    one = len(baselines) == 1
    bodies = [tag("tbody", *_rows(found, axis, results, one)) for found in comparisons]
    head = ["", "", "difference", "95 % interval", "adjusted p", "verdict"]
    cells = [tag("th", title, scope="col", class_="drawn" if index == 1 else None) for index, title in enumerate(head)]
    title = f"Difference to {baselines[0]}" if one else "Difference to the baseline"
    return tag(
        "figure",
        tag("figcaption", title),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", *cells)), *bodies, tag("tfoot", _ticks(axis)), class_="rows"),
            class_="forests",
        ),
        tag("p", _explained(results), class_="note"),
        class_="forest",
    )


def forest_axis(comparisons: Sequence[ComparisonOfRecord]) -> Axis | None:
    """An axis that holds zero, every difference and interval, and the margins; None where no difference is known."""
    every: list[TestedRecord] = [one for found in comparisons for one in (found, *found.by_task)]
    known = [end for one in every for end in (one.mean, one.low, one.high) if drawable(end)]
    if not known:
        return None
    margins = [sign * found.margin for found in comparisons if drawable(found.margin) for sign in (-1, 1)]
    return Axis.around([0.0, *known, *margins])


def _rows(found: ComparisonOfRecord, axis: Axis, results: Results, one: bool) -> list[Markup]:
    name = found.method if one else f"{found.method} \u2212 {found.baseline}"
    badge = tag("span", SHORT[found.verdict], class_=f"badge {found.verdict}")
    rows = [_row(name, found, found.p_holm, axis, found.margin, badge, look=f"all {found.verdict}")]
    if results.in_parts:
        rows += [_row(each.name, each, each.p_holm, axis, found.margin, "", look="each-task") for each in found.by_task]
    return rows


def _row(
    name: str, tested: TestedRecord, p: float | None, axis: Axis, margin: float | None, badge: object, *, look: str
) -> Markup:
    numbers = (typeset(dashed(text)) for text in (signed(tested.mean), interval(tested), p_value(p)))
    labelled = zip(numbers, ("difference", "95 % interval", "adjusted p"), strict=True)
    said = f"{name}: {signed(tested.mean)}, {interval(tested)}"
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", _drawn(tested, axis, margin, typeset(said)), class_="drawn"),
        *(tag("td", text, data_label=label) for text, label in labelled),
        tag("td", badge),
        class_=look,
    )


def _drawn(tested: TestedRecord, axis: Axis, margin: float | None, said: str) -> Markup:
    parts = []
    if margin and drawable(margin):
        left, right = axis.across(-margin), axis.across(margin)
        parts.append(tag("rect", x=at(left), y=0, width=at(right - left), height=SIZE, class_="margin"))
    parts += [stroke(axis.across(value), 0, axis.across(value), SIZE, "grid") for value in axis.marks(TICKS)]
    parts.append(stroke(axis.across(0), 0, axis.across(0), SIZE, "zero"))
    if drawable(tested.low) and drawable(tested.high):
        parts.append(stroke(axis.across(tested.low), MIDDLE, axis.across(tested.high), MIDDLE, "interval"))
    if drawable(tested.mean):
        parts.append(dot(axis.across(tested.mean), MIDDLE, "point", said))
    return tag("svg", *parts, viewBox=f"0 0 {SIZE} {SIZE}", preserveAspectRatio="none", aria_hidden="true")


def _ticks(axis: Axis) -> Markup:
    marks = axis.marks(TICKS)
    spans = [
        tag("span", label.replace("-", "\u2212"), class_="x", style=f"left:{at(axis.across(value) / 10)}%")
        for value, label in zip(marks, labels(marks), strict=True)
    ]
    sides = tag("span", "\u2190 worse", class_="worse-side"), tag("span", "better \u2192", class_="better-side")
    ticks = tag("td", *spans, *sides, class_="drawn", aria_hidden="true")
    return tag("tr", tag("td"), ticks, *(tag("td") for _ in range(COLUMNS - 2)))


def _explained(results: Results) -> str:
    record = results.record
    parts = ["Points are mean paired differences, lines their 95 % intervals by paired t."]
    if results.in_parts:
        each = each_place(record)
        over = f"the mean over every {each}" if record.pool else "over all tasks"
        parts.append(f"Thick: {over}, which is what is tested; thin: each {each} alone.")
    margins = {found.margin for found in record.comparisons if found.margin is not None}
    if margins:
        shaded = ", ".join(f"\u00b1{number(one)}" for one in sorted(margins))
        parts.append(f"Shaded: the margin, {shaded}.")
    return " ".join(parts)
