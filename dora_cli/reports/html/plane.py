"""What every chart stands on: two axes, and a picture that is stretched to its place while its type is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from dora_cli.reports.html.axes import labels, log_ticks, short, ticks
from dora_cli.reports.html.elements import Markup, tag

SIZE = 1000
"""The picture's own coordinates go from 0 to this in both directions."""
CHARACTER = 6.6
"""Width of a digit of the axes' labels, in pixels."""
ROOM = 0.08
"""Share of the range of values that is left free at either end."""
Y_TICKS, X_TICKS = 6, 5
LOG_TICKS = 5
LARGEST = 1e15
"""No axis can hold what is not below it, which a damaged record may have."""


def drawable(value: float | None) -> TypeGuard[float]:
    """Whether an axis can hold `value`."""
    return value is not None and abs(value) < LARGEST


def at(place: float) -> str:
    """A coordinate to a tenth, without what it does not need."""
    return f"{place:.1f}".removesuffix(".0")


def dot(x: float, y: float, look: str, said: str = "") -> Markup:
    """A point: a line without length, so that stretching leaves it round. `look` is its class."""
    return tag("path", tag("title", said) if said else None, d=f"M{at(x)} {at(y)}h.01", class_=look)


def stroke(x0: float, y0: float, x1: float, y1: float, look: str, *, width: float | None = None) -> Markup:
    """A straight line."""
    return tag("path", d=f"M{at(x0)} {at(y0)}L{at(x1)} {at(y1)}", class_=look, stroke_width=width)


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, which are logarithms where `log` is set."""

    low: float
    high: float
    log: bool = False

    @staticmethod
    def around(values: Iterable[float], *, log: bool = False, least: float = 0.0) -> Axis:
        """An axis with room for all of `values`, of which there is one at least.

        Args:
            log: whether it is logarithmic, where all values are positive.
            least: the range it has at least, as a share of the middle.
        """
        known = list(values)
        log = log and min(known) > 0
        low, high = (math.log10(end) if log else end for end in (min(known), max(known)))
        room = (high - low) * ROOM or max(abs(high) * 0.1, 1e-6)
        short = 0.0 if log else (least * abs(high + low) / 2 - (high - low)) / 2
        room = max(room, short)
        return Axis(low - room, high + room, log)

    def share(self, value: float) -> float:
        """Where `value` stands, from 0 to 1."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    def across(self, value: float) -> float:
        """Where it stands from left to right."""
        return SIZE * self.share(value)

    def down(self, value: float) -> float:
        """Where it stands from top to bottom."""
        return SIZE * (1 - self.share(value))

    def marks(self, most: int, *, whole: bool = False) -> tuple[float, ...]:
        """Round numbers on it."""
        if not self.log:
            return ticks(self.low, self.high, most, whole=whole)
        return log_ticks(10**self.low, 10**self.high, LOG_TICKS) or (10 ** ((self.low + self.high) / 2),)


@dataclass(frozen=True)
class Label:
    """A text at a place of the picture; `look` is its class."""

    text: str
    x: float
    y: float
    look: str


def plane(
    title: str,
    x: Axis,
    y: Axis,
    parts: Sequence[Markup],
    *,
    axis: str,
    said: str,
    written: Callable[[tuple[float, ...]], Sequence[str]] = labels,
    whole: bool = False,
    texts: Sequence[Label] = (),
    legend: Markup | None = None,
    note: str = "",
) -> Markup:
    """A figure: title, picture, legend.

    Args:
        parts: what is drawn, the last on top.
        axis: what the one below shows.
        said: what is told of the picture aloud, after its title.
        written: the labels of the axis below.
        whole: whether only integers are labelled there.
        texts: on the picture.
        note: below it.
    """
    up, across = y.marks(Y_TICKS), x.marks(X_TICKS, whole=whole)
    heights = [short(value) for value in up] if y.log else labels(up)
    left = math.ceil(10 + CHARACTER * max(map(len, heights)))
    grid = [tag("path", d=f"M0 {at(y.down(value))}H{SIZE}", class_="grid") for value in up]
    svg = tag("svg", *grid, *parts, viewBox=f"0 0 {SIZE} {SIZE}", preserveAspectRatio="none", aria_hidden="true")
    spans = [
        tag("span", label, class_="y", style=f"top:{at(y.down(value) / 10)}%")
        for value, label in zip(up, heights, strict=True)
    ]
    spans += [
        tag("span", label, class_="x", style=f"left:{at(x.across(value) / 10)}%")
        for value, label in zip(across, written(across), strict=True)
    ]
    spans += [
        tag("span", one.text, class_=one.look, style=f"left:{at(one.x / 10)}%;top:{at(one.y / 10)}%") for one in texts
    ]
    area = tag("div", svg, *spans, class_="area", role="img", aria_label=f"{title}: {said}")
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", area, tag("p", axis, class_="axis"), class_="plot", style=f"--left:{left}px"),
        legend,
        tag("p", note, class_="note") if note else None,
        class_="chart",
    )
