"""Charts: lines as inline SVG that is stretched to whatever room there is, text as HTML that is not.

A chart is as wide as its place in the page, and its type has one size everywhere, on a phone as in a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dora_cli.reports.curves import Phase
from dora_cli.reports.html.axes import labels, log_ticks, ticks
from dora_cli.reports.html.elements import Markup, tag
from dora_cli.reports.html.plane import CHARACTER, ROOM, SIZE, X_TICKS, Y_TICKS, at, drawable
from dora_cli.reports.units import number

MARKED = 40
"""A line of at most so many points shows each of them."""
POINTS = 240
"""A line of more is drawn through means of neighbours."""
PHASES = ("warm-up", "pruning", "final")
"""Those with a shade of their own."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: for the legend; empty leaves it out there.
        steps: ascending.
        values: None is a gap.
        look: the name of its colour in the page's style, which knows it for light and dark.
        dash: lengths of ink and gap; empty is a whole line.
        width: of the line, in pixels.
        stairs: values hold until the next step.
        points: whether few points are marked and say their value.
        selected: the step that is marked.
        length: steps of its whole run, for a chart over shares of it.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float | None]
    look: str
    dash: Sequence[int] = ()
    width: float = 1.6
    stairs: bool = False
    points: bool = False
    selected: int | None = None
    length: int = 0

    @property
    def known(self) -> list[tuple[int, float]]:
        """Its points, without the gaps."""
        return [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None]


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    phases: Sequence[Phase] = (),
    from_zero: bool = False,
    log: bool = False,
    shares: bool = False,
    note: str = "",
) -> Markup | None:
    """A figure: title, chart, legend. None where no line has two points: one value is for a table.

    Args:
        title: above the chart; also what is said of it aloud.
        lines: drawn in this order.
        phases: shaded behind the lines.
        from_zero: whether the axis of values begins at 0.
        log: whether it is logarithmic, where all values are positive.
        shares: whether the other axis shows the share of each run's own steps.
        note: below the chart.
    """
    lines = [line for line in map(_drawable, lines) if line.known]
    if all(len(line.known) < 2 for line in lines):
        return None
    lines = [thinned(line) for line in lines]
    frame = _Frame.around(lines, phases, from_zero=from_zero, log=log, shares=shares)
    svg = tag(
        "svg",
        *_shades(frame, phases),
        *_grid(frame),
        *(part for line in lines for part in _line(frame, line)),
        viewBox=f"0 0 {SIZE} {SIZE}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    said = f"{title}: " + "; ".join(_spoken(line) for line in lines if line.name or len(lines) == 1)
    area = tag("div", svg, *_phase_names(frame, phases), *_labels(frame), class_="area", role="img", aria_label=said)
    axis = "share of each run\u2019s steps" if shares else "optimiser step"
    named = [line for line in lines if line.name]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", area, tag("p", axis, class_="axis"), class_="plot", style=f"--left:{frame.left}px"),
        tag("ul", *(tag("li", _sample(line), line.name) for line in named), class_="legend") if named else None,
        tag("p", note, class_="note") if note else None,
        class_="chart",
    )


def thinned(line: Line) -> Line:
    """The line through means of neighbours, so that a long log makes no long page."""
    together = 1 if line.stairs else -(-len(line.steps) // POINTS)
    if together == 1:
        return line
    steps, values = [], []
    for start in range(0, len(line.steps), together):
        known = [value for value in line.values[start : start + together] if value is not None]
        steps.append(line.steps[min(start + together, len(line.steps)) - 1])
        values.append(sum(known) / len(known) if known else None)
    return replace(line, steps=steps, values=values)


def _drawable(line: Line) -> Line:
    """Without values that no axis can hold: a damaged log may have any."""
    return replace(line, values=[value if drawable(value) else None for value in line.values])


# Axes -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """Where steps and values stand in the picture; `low` and `high` are logarithms where `log` is set."""

    last: float
    low: float
    high: float
    log: bool
    shares: bool

    @staticmethod
    def around(lines: Sequence[Line], phases: Sequence[Phase], *, from_zero: bool, log: bool, shares: bool) -> _Frame:
        known = [value for line in lines for _, value in line.known]
        log = log and min(known) > 0
        low, high = (math.log10(end) if log else end for end in (min(known), max(known)))
        if from_zero and not log:
            low = min(low, 0)
        room = (high - low) * ROOM or max(abs(high) * 0.1, 1e-6)
        bottom = low if from_zero and low == 0 else low - room
        if not log and bottom < 0 <= min(known):
            bottom = 0  # what is never negative has no axis below zero
        last = max([max(line.steps) for line in lines] + [end for _, _, end in phases[-1:]])
        return _Frame(100 if shares else max(last, 1), bottom, high + room, log, shares)

    @property
    def marks(self) -> tuple[float, ...]:
        if not self.log:
            return ticks(self.low, self.high, Y_TICKS)
        return log_ticks(10**self.low, 10**self.high) or (10 ** ((self.low + self.high) / 2),)

    @property
    def left(self) -> int:
        """Pixels that the labels of values need."""
        return math.ceil(10 + CHARACTER * max(map(len, labels(self.marks))))

    def x(self, step: float, length: int = 0) -> float:
        share = step / max(length, 1) if self.shares else step / self.last
        return SIZE * min(share, 1)

    def y(self, value: float) -> float:
        return SIZE * (self.high - (math.log10(value) if self.log else value)) / (self.high - self.low)


def _shades(frame: _Frame, phases: Sequence[Phase]) -> list[Markup]:
    return [
        tag(
            "rect",
            x=at(frame.x(first - 1)),
            y=0,
            width=at(frame.x(end) - frame.x(first - 1)),
            height=SIZE,
            class_=f"shade-{name if name in PHASES else PHASES[-1]}",
        )
        for name, first, end in phases
    ]


def _phase_names(frame: _Frame, phases: Sequence[Phase]) -> list[Markup]:
    places = [(name, frame.x(first - 1) / 10, frame.x(end) / 10) for name, first, end in phases]
    return [
        tag("span", tag("i", name), class_="phase", style=f"left:{at(left)}%;width:{at(right - left)}%")
        for name, left, right in places
    ]


def _grid(frame: _Frame) -> list[Markup]:
    return [tag("path", d=f"M0 {at(frame.y(value))}H{SIZE}", class_="grid") for value in frame.marks]


def _labels(frame: _Frame) -> list[Markup]:
    parts = [
        tag("span", label, class_="y", style=f"top:{at(frame.y(value) / 10)}%")
        for value, label in zip(frame.marks, labels(frame.marks), strict=True)
    ]
    if frame.shares:
        return parts + [tag("span", f"{share} %", class_="x", style=f"left:{share}%") for share in (0, 25, 50, 75, 100)]
    marks = ticks(0, frame.last, X_TICKS, whole=True)
    return parts + [
        tag("span", label, class_="x", style=f"left:{at(frame.x(value) / 10)}%")
        for value, label in zip(marks, labels(marks), strict=True)
    ]


# Lines ----------------------------------------------------------------------------------------------------------------


def _line(frame: _Frame, line: Line) -> list[Markup]:
    places = [
        (at(frame.x(step, line.length)), None if value is None else at(frame.y(value)))
        for step, value in zip(line.steps, line.values, strict=True)
    ]
    parts = [
        tag(
            "path",
            d=_stairs(places) if line.stairs else _strokes(places),
            stroke_width=line.width,
            stroke_dasharray=" ".join(map(str, line.dash)) or None,
            class_=f"line {line.look}",
        )
    ]
    for (step, value), place in zip(line.known, (place for place in places if place[1] is not None), strict=True):
        dot = f"M{place[0]} {place[1]}h.01"  # a dot is a line without length, so that stretching leaves it round
        said = tag("title", f"{line.name + ': ' if line.name else ''}{number(value)} at step {step:,}")
        if step == line.selected:
            parts += [tag("path", said, d=dot, class_=f"ring {line.look}"), tag("path", d=dot, class_="hole")]
        elif line.points and len(line.steps) <= MARKED:
            parts.append(tag("path", said, d=dot, class_=f"dot {line.look}"))
    return parts


def _strokes(places: Sequence[tuple[str, str | None]]) -> str:
    """Straight from point to point; a value alone between gaps is a dot."""
    commands, pen = "", "M"
    for x, y in places:
        commands += "" if y is None else f"{pen}{x} {y}" + ("h.01" if pen == "M" else "")
        pen = "M" if y is None else "L"
    return commands


def _stairs(places: Sequence[tuple[str, str | None]]) -> str:
    """Level until the next value, then up or down; of several values at one place of the picture the last."""
    levels = {x: y for x, y in places if y is not None}
    (first, level), *others = levels.items()
    commands = f"M{first} {level}"
    for x, y in others:
        if y != level:
            commands += f"H{x}V{y}"
        level = y
    return commands + f"H{[first, *(x for x, _ in others)][-1]}"


def _sample(line: Line) -> Markup:
    dash = " ".join(map(str, line.dash)) or None
    stroke = tag(
        "path",
        d="M1 5H25",
        stroke_width=min(max(line.width, 1.6), 5),
        stroke_dasharray=dash,
        class_=f"line {line.look}",
    )
    return tag("svg", stroke, width=26, height=10, aria_hidden="true")


def _spoken(line: Line) -> str:
    (first, begin), (last, end) = line.known[0], line.known[-1]
    return f"{line.name + ' ' if line.name else ''}{number(begin)} at step {first:,}, {number(end)} at step {last:,}"
