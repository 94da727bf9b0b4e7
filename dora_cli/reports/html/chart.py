"""Charts as inline SVG, drawn for the width of a phone and scaled up where there is more room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dora_cli.reports import palette
from dora_cli.reports.curves import Phase
from dora_cli.reports.html.axes import labels, ticks
from dora_cli.reports.html.elements import Markup, tag
from dora_cli.reports.units import number

WIDTH, HEIGHT = 360, 230
_TOP, _RIGHT, _BOTTOM = 20, 12, 36
_CHARACTER = 6.0
"""Width of a digit of the axes' labels."""
MARKED = 40
"""A line of at most so many points shows each of them."""
LARGEST = 1e15
POINTS = 240
"""A line of more is drawn through means of neighbours."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: for the legend; empty leaves it out there.
        steps: ascending.
        values: None is a gap.
        colour: ``#rrggbb``.
        dash: lengths of ink and gap; empty is a whole line.
        width: of the line.
        opacity: 0 to 1.
        stairs: values hold until the next step.
        points: whether few points are marked and say their value.
        selected: the step that is marked.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float | None]
    colour: str
    dash: Sequence[int] = ()
    width: float = 1.6
    opacity: float = 1.0
    stairs: bool = False
    points: bool = False
    selected: int | None = None

    @property
    def known(self) -> bool:
        return any(value is not None for value in self.values)


def chart(title: str, lines: Sequence[Line], *, phases: Sequence[Phase] = (), from_zero: bool = False, note: str = "") -> Markup | None:
    """A figure: title, chart, legend. None where no line has a value.

    Args:
        title: above the chart; also what is said of it aloud.
        lines: drawn in this order.
        phases: shaded behind the lines.
        from_zero: whether the axis of values begins at 0.
        note: below the chart.
    """
    lines = [thinned(line) for line in map(_drawable, lines) if line.known]
    if not lines:
        return None
    frame = _Frame.around(lines, phases, from_zero)
    parts = [*_phases(frame, phases), *_axes(frame)]
    for line in lines:
        parts += _line(frame, line)
    drawn = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}: " + "; ".join(_spoken(line) for line in lines if line.name or len(lines) == 1),
    )
    named = [line for line in lines if line.name]
    legend = tag("ul", *(tag("li", _sample(line), line.name) for line in named), class_="legend") if named else None
    return tag("figure", tag("figcaption", title), drawn, legend, tag("p", note, class_="note") if note else None, class_="chart")


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
    return replace(line, values=[value if value is not None and abs(value) < LARGEST else None for value in line.values])


@dataclass(frozen=True)
class _Frame:
    """Where values stand in the picture."""

    left: float
    last: int
    low: float
    high: float

    @staticmethod
    def around(lines: Sequence[Line], phases: Sequence[Phase], from_zero: bool) -> _Frame:
        known = [value for line in lines for value in line.values if value is not None]
        low, high = min(known), max(known)
        if from_zero:
            low = min(low, 0)
        room = (high - low) * 0.08 or max(abs(high) * 0.1, 1e-6)
        low, high = low if from_zero and low == 0 else low - room, high + room
        if low < 0 <= min(known):
            low = 0  # what is never negative has no axis below zero
        widest = max(len(label) for label in labels(ticks(low, high, 6)))
        last = max([max(line.steps) for line in lines] + [end for _, _, end in phases[-1:]])
        return _Frame(10 + _CHARACTER * widest, max(last, 1), low, high)

    def x(self, step: float) -> float:
        return self.left + (WIDTH - _RIGHT - self.left) * step / self.last

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * (value - self.low) / (self.high - self.low)


def _phases(frame: _Frame, phases: Sequence[Phase]) -> list[Markup]:
    parts = []
    for name, first, end in phases:
        left, right = frame.x(first - 1), frame.x(end)
        fill = palette.phase_shade(name)
        parts.append(tag("rect", x=_at(left), y=_TOP, width=_at(right - left), height=HEIGHT - _BOTTOM - _TOP, fill=fill))
        if right - left > 6 * len(name):
            parts.append(_label(name, (left + right) / 2, _TOP - 6, anchor="middle", class_="faint"))
    return parts


def _axes(frame: _Frame) -> list[Markup]:
    parts = []
    marks = ticks(frame.low, frame.high, 6)
    for value, label in zip(marks, labels(marks), strict=True):
        y = frame.y(value)
        parts.append(tag("line", x1=_at(frame.left), x2=WIDTH - _RIGHT, y1=_at(y), y2=_at(y), class_="grid"))
        parts.append(_label(label, frame.left - 6, y + 4, anchor="end"))
    bottom = HEIGHT - _BOTTOM
    parts.append(tag("line", x1=_at(frame.left), x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    marks = ticks(0, frame.last, 6, whole=True)
    for value, label in zip(marks, labels(marks), strict=True):
        x = frame.x(value)
        parts.append(tag("line", x1=_at(x), x2=_at(x), y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(_label(label, min(x, WIDTH - _CHARACTER / 2 * len(label)), bottom + 15, anchor="middle"))
    parts.append(_label("optimiser step", (frame.left + WIDTH - _RIGHT) / 2, HEIGHT - 6, anchor="middle", class_="faint"))
    return parts


def _line(frame: _Frame, line: Line) -> list[Markup]:
    parts = [
        tag(
            "path",
            d=_path(frame, line),
            stroke=line.colour,
            stroke_width=line.width,
            stroke_opacity=line.opacity if line.opacity < 1 else None,
            stroke_dasharray=" ".join(map(str, line.dash)) or None,
            class_="line",
        )
    ]
    for step, value in zip(line.steps, line.values, strict=True):
        if value is None:
            continue
        said = tag("title", f"{line.name + ': ' if line.name else ''}{number(value)} at step {step:,}")
        place = {"cx": _at(frame.x(step)), "cy": _at(frame.y(value))}
        if step == line.selected:
            parts.append(tag("circle", said, **place, r=4.5, fill=palette.PAPER, stroke=line.colour, stroke_width=2))
        elif line.points and len(line.steps) <= MARKED:
            parts.append(tag("circle", said, **place, r=2.4, fill=line.colour))
    return parts


def _path(frame: _Frame, line: Line) -> str:
    known = [
        (_at(frame.x(step)), None if value is None else _at(frame.y(value))) for step, value in zip(line.steps, line.values, strict=True)
    ]
    return _stairs(known) if line.stairs else _strokes(known)


def _strokes(places: Sequence[tuple[str, str | None]]) -> str:
    """Straight from point to point; a value alone between gaps is a dot."""
    commands, pen = "", "M"
    for x, y in places:
        commands += "" if y is None else f"{pen}{x} {y}" + ("h0" if pen == "M" else "")
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


def _label(written: str, x: float, y: float, *, anchor: str, class_: str | None = None) -> Markup:
    return tag("text", written, x=_at(x), y=_at(y), text_anchor=anchor, class_=class_)


def _sample(line: Line) -> Markup:
    dash = " ".join(map(str, line.dash)) or None
    stroke = tag("path", d="M1 5H25", stroke=line.colour, stroke_width=max(line.width, 1.6), stroke_dasharray=dash)
    return tag("svg", stroke, width=26, height=10, aria_hidden="true")


def _spoken(line: Line) -> str:
    known = [(step, value) for step, value in zip(line.steps, line.values, strict=True) if value is not None]
    (first, begin), (last, end) = known[0], known[-1]
    return f"{line.name + ' ' if line.name else ''}{number(begin)} at step {first:,}, {number(end)} at step {last:,}"


def _at(place: float) -> str:
    """A coordinate to a tenth of a unit, without what it does not need."""
    return f"{place:.1f}".removesuffix(".0")
