"""The score over the tuned key, such as the learning rate: one chart for each method on each task."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.reports.compare.results import Cell, Results, mean_score
from dora_cli.reports.html.axes import short
from dora_cli.reports.html.elements import Markup, tag
from dora_cli.reports.html.plane import SIZE, Axis, Label, at, dot, drawable, plane, stroke
from dora_cli.reports.units import number
from dora_cli.runs.records.comparison import ComparedTaskRecord, TriedRecord, TunedRecord

BELOW = 0.1
"""Share of the range of scores that is left free for the crosses below them."""
WIDE = 10
"""Losses of which one is this many times another stand on a logarithmic axis: a diverged run would flatten the rest."""


def rate_charts(results: Results, task: ComparedTaskRecord) -> list[Markup]:
    """A chart for each method that was tuned on `task`, all with the same axes."""
    cells = [results.cell(task, method) for method in results.methods]
    tuned = [(cell, cell.record.tuned) for cell in cells if cell.record is not None and cell.record.tuned is not None]
    scores = [score for _, each in tuned for one in each.tried for score in one.scores if drawable(score)]
    values = [one.value for _, each in tuned for one in each.tried]
    if not scores or results.record.tuning is None:
        return []
    wide = task.lower_is_better and min(scores) > 0 and max(scores) >= WIDE * min(scores)
    if any(one.collapsed for _, each in tuned for one in each.tried) and not wide:
        scores.append(min(scores) - BELOW * (max(scores) - min(scores)))
    x, y = Axis.around(values, log=True), Axis.around(scores, log=wide)
    key = results.record.tuning.key.rpartition(".")[2].replace("_", " ")
    return [_chart(cell, each, x, y, key, named=len(results.tasks) > 1) for cell, each in tuned]


def _chart(cell: Cell, tuned: TunedRecord, x: Axis, y: Axis, key: str, *, named: bool) -> Markup:
    parts = _band(tuned, x)
    chosen = x.across(tuned.chosen)
    parts.append(stroke(chosen, 0, chosen, SIZE, "chosen"))
    means = [(one, mean) for one in tuned.tried if drawable(mean := mean_score(one))]
    places = [(x.across(one.value), y.down(mean)) for one, mean in means]
    if len(places) > 1:
        parts.append(
            tag("path", d="M" + "L".join(f"{at(a)} {at(b)}" for a, b in places), class_="line metric", stroke_width=1.8)
        )
    for one in tuned.tried:
        parts += [
            dot(x.across(one.value), y.down(score), "seed", f"{key} {short(one.value)}, seed {seed}: {number(score)}")
            for seed, score in zip(one.seeds, one.scores, strict=False)
            if drawable(score)
        ]
    for (one, mean), (left, top) in zip(means, places, strict=True):
        parts.append(dot(left, top, "dot metric", _told(one, mean, key, tuned)))
        if one.added:
            parts.append(dot(left, top, "hole"))
    texts = [Label(f"\u00d7{one.collapsed}" if one.collapsed > 1 else "\u00d7", x.across(one.value), SIZE, "collapsed")
             for one in tuned.tried if one.collapsed]  # fmt: skip
    texts.append(Label(short(tuned.chosen), chosen, 0, "chosen-name"))
    title = f"{cell.method.name} on {cell.task.name}" if named else cell.method.name
    axis = f"{key}, logarithmic" if x.log else key
    return plane(title, x, y, parts, axis=axis, said=_spoken(tuned, cell, key), written=_written, texts=texts)


def _written(marks: Sequence[float]) -> list[str]:
    return [short(value) for value in marks]


def _band(tuned: TunedRecord, x: Axis) -> list[Markup]:
    if tuned.band is None:
        return []
    left, right = (x.across(value) for value in tuned.band)
    return [tag("rect", x=at(left), y=0, width=at(max(right - left, 4)), height=SIZE, class_="band")]


def _told(one: TriedRecord, mean: float, key: str, tuned: TunedRecord) -> str:
    facts = [f"{key} {short(one.value)}: mean {number(mean)}"]
    facts += ["chosen"] if one.value == tuned.chosen else []
    facts += ["added"] if one.added else []
    facts += [f"{one.collapsed} collapsed"] if one.collapsed else []
    return ", ".join(facts)


def _spoken(tuned: TunedRecord, cell: Cell, key: str) -> str:
    told = [
        _told(one, mean, key, tuned) if (mean := mean_score(one)) is not None else f"{key} {short(one.value)}: no score"
        for one in tuned.tried
    ]
    if tuned.band is not None:
        told.append(f"within one standard error of the best from {short(tuned.band[0])} to {short(tuned.band[1])}")
    return f"{cell.task.metric.replace('_', ' ')} on the held-out part; " + "; ".join(told)


def band_ratio(tuned: TunedRecord) -> float | None:
    """How many times its lower end the upper end of the band is."""
    if tuned.band is None or tuned.band[0] <= 0:
        return None
    return tuned.band[1] / tuned.band[0]


def explained() -> Markup:
    """What the marks of these charts mean, once for all of them."""

    def sample(*parts: Markup) -> Markup:
        return tag("svg", *parts, width=26, height=12, aria_hidden="true")

    middle = 6.0
    items = [
        (
            sample(stroke(1, middle, 25, middle, "line metric", width=1.8), dot(13, middle, "dot metric")),
            "mean over seeds",
        ),
        (sample(dot(13, middle, "seed")), "one seed"),
        (sample(dot(13, middle, "dot metric"), dot(13, middle, "hole")), "added: the best was at an edge of the grid"),
        (sample(stroke(13, 0, 13, 12, "chosen")), "chosen"),
        (sample(tag("rect", x=1, y=0, width=24, height=12, class_="band")), "within one standard error of the best"),
        (tag("b", "\u00d7", class_="cross"), "a run collapsed: the same said of every example, or diverged"),
    ]
    return tag("ul", *(tag("li", mark, text) for mark, text in items), class_="legend key")
