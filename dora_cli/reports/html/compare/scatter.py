"""Methods beside each other on one task: size against score, and what tuning with few values comes to."""

from __future__ import annotations

from dora_cli.reports import palette
from dora_cli.reports.compare.results import Results
from dora_cli.reports.html.elements import Markup, tag
from dora_cli.reports.html.figures import APART, FLAT, readable
from dora_cli.reports.html.plane import Axis, at, dot, drawable, plane, stroke
from dora_cli.reports.units import number
from dora_cli.runs.records.comparison import ComparedMethodRecord, ComparedTaskRecord

LEAST = 0.2
"""Share of the middle size that the axis of sizes spans at least: methods of matched size stand close together."""
WIDTH = 1.8


def look(results: Results, method: ComparedMethodRecord) -> tuple[str, str]:
    """The class of a method's colour, and of its mark: round, and square where colours come again."""
    index = results.methods.index(method)
    return f"s{index % APART}", "dot big" if index < APART else "square"


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
    parts = _sweeps(results, known, x, y)
    for method, stored, mean, sd in known:
        colour, _ = look(results, method)
        left = x.across(stored)
        if sd:
            parts.append(stroke(left, y.down(mean - sd), left, y.down(mean + sd), f"line {colour}", width=WIDTH))
    for method, stored, mean, sd in known:
        colour, mark = look(results, method)
        told = f"{method.name}: {number(mean)} \u00b1 {number(sd)}, {stored:,.0f} stored parameters"
        parts.append(dot(x.across(stored), y.down(mean), f"{mark} {colour}", told))
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
        dashes = " ".join(map(str, palette.DASHES[results.methods.index(method) % APART])) or None
        places = "L".join(f"{at(x.across(k))} {at(y.down(value))}" for k, value in known)
        parts.append(tag("path", d=f"M{places}", class_=f"line {colour}", stroke_width=WIDTH, stroke_dasharray=dashes))
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
            dashes = " ".join(map(str, palette.DASHES[results.methods.index(method) % APART])) or None
            parts = [tag("path", d="M1 6H25", class_=f"line {colour}", stroke_width=WIDTH, stroke_dasharray=dashes)]
        items.append(tag("li", tag("svg", *parts, width=26, height=12, aria_hidden="true"), method.name))
    return tag("ul", *items, class_="legend")
