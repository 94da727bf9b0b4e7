"""Methods beside each other on one task: size against score, and what tuning with few values comes to."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.reports import palette
from dora_cli.reports.compare.results import Results
from dora_cli.reports.html.elements import Markup, tag
from dora_cli.reports.html.figures import APART, FLAT, readable
from dora_cli.reports.html.plane import Axis, at, dot, drawable, plane, stroke
from dora_cli.reports.units import number
from dora_cli.runs.records.comparison import ComparedMethodRecord, ComparedTaskRecord

LEAST = 0.2
"""Share of the middle size that the axis of sizes spans at least: methods of matched size stand close together."""
SHIFT = 3
"""Dashes that a second line of one colour is away from the first."""
WIDTH = 1.8
GAP = 16
"""Units of the 1000 that the axis of sizes is wide: points that are closer would hide each other."""


def look(results: Results, method: ComparedMethodRecord) -> tuple[str, str]:
    """The class of a method's colour, and of its mark: round, and square where colours come again."""
    index = results.methods.index(method)
    return f"s{index % APART}", "dot big" if index < APART else "square"


def dashes(results: Results, method: ComparedMethodRecord) -> str | None:
    """Dashes of a method's line: others where colours come again."""
    index = results.methods.index(method)
    return " ".join(map(str, palette.DASHES[(index + SHIFT * (index // APART)) % APART])) or None


def size_chart(results: Results, task: ComparedTaskRecord) -> Markup | None:
    """Stored parameters against the mean score with its standard deviation; None where fewer than two are known."""
    known = []
    for method in results.methods:
        cell = results.cell(task, method)
        stored = cell.over(lambda run: run.stored_parameters).mean
        if stored is not None and drawable(cell.score.mean) and drawable(cell.score.sd or 0.0):
            known.append((method, stored, cell.score.mean, cell.score.sd or 0.0))
    if len(known) < 2:
        return None
    sizes = [stored for _, stored, _, _ in known]
    x = Axis.around(sizes, log=min(sizes) > 0 and max(sizes) >= FLAT * min(sizes), least=LEAST)
    y = Axis.around([mean + sign * sd for _, _, mean, sd in known for sign in (-1, 1)])
    lefts = apart([x.across(stored) for stored in sizes])
    parts = _sweeps(results, known, x, y)
    for (method, _, mean, sd), left in zip(known, lefts, strict=True):
        colour, _ = look(results, method)
        if sd:
            parts.append(stroke(left, y.down(mean - sd), left, y.down(mean + sd), f"line {colour}", width=WIDTH))
    for (method, stored, mean, sd), left in zip(known, lefts, strict=True):
        colour, mark = look(results, method)
        told = f"{method.name}: {number(mean)} \u00b1 {number(sd)}, {stored:,.0f} stored parameters"
        parts.append(dot(left, y.down(mean), f"{mark} {colour}", told))
    said = "; ".join(f"{method.name} {number(mean)} with {stored:,.0f}" for method, stored, mean, _ in known)
    return plane(
        task.name,
        x,
        y,
        parts,
        axis="stored parameters" + (", logarithmic" if x.log else ""),
        said=f"{readable(task.metric)} over stored parameters: {said}",
        legend=_legend(results, [method for method, *_ in known]),
    )


def apart(places: Sequence[float]) -> list[float]:
    """Places of which none hides another: those that are closer than `GAP` stand beside each other about their middle.

    Methods of matched size all have one place otherwise.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    clusters: list[list[int]] = []
    for index in order:
        if clusters and places[index] - places[clusters[-1][-1]] < GAP:
            clusters[-1].append(index)
        else:
            clusters.append([index])
    found = list(places)
    for cluster in clusters:
        middle = sum(places[index] for index in cluster) / len(cluster)
        for rank, index in enumerate(cluster):
            found[index] = middle + (rank - (len(cluster) - 1) / 2) * GAP
    return found


def _sweeps(
    results: Results, known: list[tuple[ComparedMethodRecord, float, float, float]], x: Axis, y: Axis
) -> list[Markup]:
    """Methods of one entry of the experiment, which differ in what is swept, joined by a line."""
    parts = []
    for entry in dict.fromkeys(method.entry for method, *_ in known):
        members = sorted((stored, mean) for method, stored, mean, _ in known if method.entry == entry)
        if len(members) > 1:
            colour, _ = look(results, next(method for method, *_ in known if method.entry == entry))
            places = "L".join(f"{at(x.across(stored))} {at(y.down(mean))}" for stored, mean in members)
            parts.append(tag("path", d=f"M{places}", class_=f"line thin {colour}", stroke_width=1))
    return parts


def best_of_chart(results: Results, task: ComparedTaskRecord) -> Markup | None:
    """The expected held-out score of the best of so many tried values; None where nothing was tuned."""
    lines = []
    for method in results.methods:
        record = results.cell(task, method).record
        if record is not None and record.tuned is not None:
            known = [(k, value) for k, value in enumerate(record.tuned.expected_best, start=1) if drawable(value)]
            if len(known) > 1:
                lines.append((method, known))
    if not lines:
        return None
    x = Axis.around([float(k) for _, known in lines for k, _ in known])
    y = Axis.around([value for _, known in lines for _, value in known])
    parts = []
    for method, known in lines:
        colour, _ = look(results, method)
        places = "L".join(f"{at(x.across(k))} {at(y.down(value))}" for k, value in known)
        parts.append(
            tag(
                "path",
                d=f"M{places}",
                class_=f"line {colour}",
                stroke_width=WIDTH,
                stroke_dasharray=dashes(results, method),
            )
        )
        parts += [
            dot(x.across(k), y.down(value), f"dot {colour}", f"{method.name}: {number(value)} of the best of {k}")
            for k, value in known
        ]
    said = "; ".join(
        f"{method.name} from {number(known[0][1])} for {known[0][0]} to {number(known[-1][1])} for {known[-1][0]}"
        for method, known in lines
    )
    return plane(
        task.name,
        x,
        y,
        parts,
        axis="values tried",
        said=f"expected held-out {readable(task.metric)} of the best of so many values: {said}",
        whole=True,
        legend=_legend(results, [method for method, _ in lines], lines=True),
    )


def _legend(results: Results, methods: list[ComparedMethodRecord], *, lines: bool = False) -> Markup:
    items = []
    for method in methods:
        colour, mark = look(results, method)
        parts = [dot(13, 6, f"{mark} {colour}")]
        if lines:
            parts = [
                tag(
                    "path",
                    d="M1 6H25",
                    class_=f"line {colour}",
                    stroke_width=WIDTH,
                    stroke_dasharray=dashes(results, method),
                )
            ]
        items.append(tag("li", tag("svg", *parts, width=26, height=12, aria_hidden="true"), method.name))
    return tag("ul", *items, class_="legend")
