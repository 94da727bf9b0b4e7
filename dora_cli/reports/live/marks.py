"""Bars and trends in a line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style

Line = list[Segment]

PLAIN = Style()
BOLD = Style(bold=True)
DIM = Style(dim=True)


@dataclass(frozen=True)
class Glyphs:
    """What bars and trends are made of.

    Attributes:
        levels: from empty to full; a trend needs more than two, else it is left out.
    """

    done: str
    half: str
    rest: str
    done_mark: str
    rest_mark: str
    rule: str
    ellipsis: str
    levels: str


UNICODE = Glyphs(
    "\u2501",
    "\u2578",
    "\u2500",
    "\u253f",
    "\u253c",
    "\u2500",
    "\u2026",
    "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588",
)
ASCII = Glyphs("#", "#", "-", "|", "|", "-", "...", "")


def bar(width: int, share: float, glyphs: Glyphs, *, marks: Sequence[float] = (), style: Style = PLAIN) -> Line:
    """A bar of `width` cells of which `share` is done; `marks` are shares where something ends or is to be reached."""
    share = min(max(share, 0.0), 1.0)
    full, half = divmod(round(share * width * 2), 2)
    cells = [glyphs.done] * full + [glyphs.half] * half + [glyphs.rest] * (width - full - half)
    for mark in marks:
        place = round(mark * width)
        if 0 < place < width:
            cells[place] = glyphs.done_mark if place < full else glyphs.rest_mark
    done = "".join(cells[: full + half])
    return [Segment(done, style), Segment("".join(cells[full + half :]), DIM)]


def trend(values: Sequence[float | None], width: int, glyphs: Glyphs) -> str:
    """The latest values as a row of small bars, from the lowest to the highest of them; a blank for
    what is no number.
    """
    shown = values[-width:] if width > 0 else ()
    known = [value for value in shown if value is not None and math.isfinite(value)]
    if len(known) < 2 or not glyphs.levels:
        return ""
    low, high = min(known), max(known)
    top = len(glyphs.levels) - 1

    def level(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        return glyphs.levels[round((value - low) / (high - low) * top) if high > low else top // 2]

    return "".join(map(level, shown))


def length(line: Line) -> int:
    """Cells that a line takes."""
    return sum(cell_len(segment.text) for segment in line)


def cut(line: Line, width: int, glyphs: Glyphs) -> Line:
    """A line of at most `width` cells, without blanks at its end; one that was cut ends with an ellipsis."""
    if length(line) <= width:
        return line
    room = max(width - len(glyphs.ellipsis), 0)
    result: Line = []
    for segment in line:
        cells = cell_len(segment.text)
        if cells > room:
            result.append(Segment(set_cell_size(segment.text, room), segment.style))
            break
        result.append(segment)
        room -= cells
    return [*result, Segment(glyphs.ellipsis[: max(width, 0)], DIM)]
