"""The small map of live ranks: projections down, blocks across, folded until it fits.

Of the ways to show it the first that fits is taken: a number for every projection, with blanks around it; numbers
without blanks between them, where colours part them; a small bar for every projection; then means over attention and
FFN of each block; then means over neighbouring blocks. Several stacks stand beside each other where the width allows. A
background tells the rank as a share of the start rank, and the number or the height of the bar says it without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from rich.segment import Segment
from rich.style import Style

from dora_cli.reports.curves import RankMap
from dora_cli.reports.grid import GROUPS
from dora_cli.reports.live.marks import BOLD, DIM, PLAIN, Glyphs, Line, length

GAP = 3
"""Blanks between two stacks."""
SHORT = 14
"""Cells of a row's label where there is no room for more; it loses its beginning, since endings tell
projections apart.
"""


@dataclass(frozen=True)
class Table:
    """What is shown of one stack: a value (rank, or mean rank) and its share of the start rank for each
    row and column.
    """

    title: str
    heading: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[tuple[float, float] | None, ...], ...]


Shade = Callable[[float], Style]
"""The style of a cell by its share of the start rank."""


def rank_lines(
    maps: Sequence[RankMap], width: int, height: int, *, shade: Shade, glyphs: Glyphs, colours: bool = True
) -> list[Line]:
    """The maps in at most `width` x `height` cells; empty where nothing fits."""
    if not maps:
        return []
    digits = len(str(max(found.full for found in maps)))
    numbers = (digits + 3, digits + 1, digits) if colours else (digits + 1, *((1,) if digits == 1 else ()))
    bars = (1,) if glyphs.levels and digits > 1 else ()
    longest = max(len(found.blocks) for found in maps)
    ways: list[tuple[list[Table], tuple[int, ...]]] = [
        ([_whole(found, len(maps) > 1) for found in maps], (*numbers, *bars))
    ]
    for fold in range(1, max(longest // 3, 1) + 1):
        ways.append(([_folded(_by_group(maps), fold)], (*numbers, *bars) if fold == 1 else numbers))
    for shown, widths in ways:
        for cell, label in product(widths, (width, SHORT)):
            lines = _arranged([_lines(table, cell, digits, label, shade, glyphs) for table in shown], width)
            if lines is not None and len(lines) <= height:
                return lines
    return []


# What is shown --------------------------------------------------------------------------------------------------------


def _whole(found: RankMap, titled: bool) -> Table:
    cells = tuple(
        tuple(None if cell is None else (float(cell.rank), cell.share) for cell in row) for row in found.members
    )
    cross = any(cell is not None and cell.attention == "cross" for row in found.members for cell in row)
    path = found.title.partition(":")[2]  # where two lists of blocks number them alike
    title = "Cross-attention" if cross else found.title.partition(",")[0].partition(":")[0]
    return Table(title + path if titled else "", "block", found.headings, tuple(map(str, found.blocks)), cells)


def _by_group(maps: Sequence[RankMap]) -> Table:
    """One row for the attention and one for the FFN of each stack, of means."""
    columns = max((tuple(map(str, found.blocks)) for found in maps), key=len)
    names, rows = [], []
    for found in maps:
        table = _whole(found, len(maps) > 1)
        for group in GROUPS:
            members = [row for row, of in zip(table.cells, found.groups, strict=True) if of == group]
            if not members:
                continue
            means = [_mean(column) for column in zip(*members, strict=True)]
            rows.append((*means, *[None] * (len(columns) - len(means))))
            cross = table.title.startswith("Cross")
            names.append(table.title if cross else f"{table.title} {GROUPS[group]}".strip())
    return Table("", "block", tuple(names), columns, tuple(rows))


def _mean(cells: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [cell for cell in cells if cell is not None]
    return (fmean(rank for rank, _ in known), fmean(share for _, share in known)) if known else None


def _folded(table: Table, fold: int) -> Table:
    """Means over `fold` neighbouring blocks; a column is called after its first."""
    if fold == 1:
        return table
    starts = range(0, len(table.columns), fold)
    cells = tuple(tuple(_mean(row[start : start + fold]) for start in starts) for row in table.cells)
    return Table(table.title, f"{fold} blocks", table.rows, tuple(table.columns[start] for start in starts), cells)


# How it is shown ------------------------------------------------------------------------------------------------------


def _lines(table: Table, cell: int, digits: int, longest: int, shade: Shade, glyphs: Glyphs) -> list[Line]:
    """The table with cells of `cell` and labels of at most `longest` cells."""
    label = min(max(map(len, (*table.rows, table.heading))), longest)
    lines: list[Line] = [[Segment(table.title, BOLD)]] if table.title else []
    lines.append([Segment(table.heading.ljust(label) + " " + _numbers(table.columns, cell, _pad(cell, digits)), DIM)])
    for name, row in zip(table.rows, table.cells, strict=True):
        shown = name if len(name) <= label else glyphs.ellipsis + name[len(glyphs.ellipsis) - label :]
        line = [Segment(shown.ljust(label) + " ", PLAIN)]
        line += _merged(_cell(value, cell, digits, shade, glyphs) for value in row)
        lines.append(line)
    return lines


def _cell(
    value: tuple[float, float] | None, width: int, digits: int, shade: Shade, glyphs: Glyphs
) -> Iterator[Segment]:
    """One cell of `width`: a blank, if there is room, and a number of `digits`, with blanks of its colour around it if
    there is more.
    """
    pad = " " * _pad(width, digits)
    if value is None:
        yield Segment("-".rjust(width - len(pad)) + pad, DIM)
        return
    rank, share = value
    if width < digits:
        top = len(glyphs.levels) - 1
        yield Segment(glyphs.levels[min(round(share * top), top)] if rank else " ", PLAIN)
        return
    number = pad + str(round(rank)).rjust(digits) + pad
    if width > len(number):
        yield Segment(" " * (width - len(number)), PLAIN)
    yield Segment(number, shade(share) if rank else DIM)


def _pad(width: int, digits: int) -> int:
    """Blanks on both sides of a number in a cell of `width`."""
    return 1 if width > digits + 1 else 0


def _merged(cells: Iterator[Iterator[Segment]]) -> Line:
    """The cells' segments, neighbours of one style as one: there are hundreds of cells, and each segment costs time."""
    result: Line = []
    for cell in cells:
        for segment in cell:
            if result and result[-1].style == segment.style:
                result[-1] = Segment(result[-1].text + segment.text, segment.style)
            else:
                result.append(segment)
    return result


def _numbers(columns: Sequence[str], width: int, pad: int) -> str:
    """The blocks' numbers over their columns, every second, fifth, ... only where they would touch."""
    widest = max(map(len, columns))
    every = next(
        step for step in (1, 2, 5, 10, 20, 50, 100, len(columns)) if step * width > widest or step >= len(columns)
    )
    line = ""
    for index in range(0, len(columns), every):
        # right over a number, whose last digit it stands above; left where one is wider than its column
        end = (index + 1) * width - pad if len(columns[index]) <= width else index * width + len(columns[index])
        line = line.ljust(end - len(columns[index])) + columns[index]
    return line


def _arranged(blocks: Sequence[list[Line]], width: int) -> list[Line] | None:
    """Stacks beside each other as far as they fit, then below; None if one is too wide for any line."""
    result: list[Line] = []
    beside: list[Line] = []
    used = 0
    for block in blocks:
        wide = max(map(length, block))
        if wide > width:
            return None
        if beside and used + GAP + wide <= width:
            for index in range(max(len(beside), len(block))):
                if index == len(beside):
                    beside.append([])
                if index < len(block):
                    line = beside[index]
                    beside[index] = [*line, Segment(" " * (used + GAP - length(line))), *block[index]]
            used += GAP + wide
        else:
            result += beside
            beside, used = list(block), wide
    return result + beside
