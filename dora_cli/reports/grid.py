"""The grid of ranks: projections down, blocks across, coloured by rank, at any width.

A cell's background tells its rank as a share of the highest start rank, in sixths; the number says it without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from dora_cli.reports import palette
from dora_cli.reports.headings import headings, stacked

LEVELS = 6
_HEAT = tuple(palette.on(palette.shade(level / LEVELS)) for level in range(1, LEVELS + 1))
# Terminals with 16 colours have no such row of blues; the nearest ones would put black on blue.
_HEAT_16 = (
    "black on bright_white",
    "black on white",
    "black on bright_cyan",
    "black on cyan",
    "bright_white on blue",
    "bright_white on magenta",
)
_ZERO = "dim"
_GAP = "  "


@dataclass(frozen=True)
class Cell:
    """One projection of the table; `rank` is a float where it is a mean over runs.

    `full` is the rank that has the strongest colour, see `full_rank`. `stored` are the parameters that the record gives
    it, None where they follow from rank and shape.
    """

    name: str
    stack: str
    block: int
    attention: str | None
    projection: str
    group: str
    shape: tuple[int, int]
    start_rank: int
    rank: int | float
    full: int
    stored: float | None = None

    @property
    def share(self) -> float:
        """The rank as a share of the strongest colour's."""
        return self.rank / self.full if self.full else 0.0

    @property
    def parameters(self) -> float:
        """How many numbers the adapter stores for it alone: the entries of A and B, where the record says no other."""
        return self.rank * sum(self.shape) if self.stored is None else self.stored

    def level(self, levels: int) -> int:
        """Which of `levels` equal shares of the strongest colour's rank it falls into, from 1; 0 for rank 0."""
        return min(ceil(self.rank / self.full * levels), levels) if self.rank else 0


def full_rank(ranks: Iterable[tuple[int, float]]) -> tuple[int, str]:
    """The rank that has the strongest colour, and which one it is, in words: what projections started with, or the
    highest where ranks have grown.

    Args:
        ranks: start rank and rank of every projection.
    """
    pairs = list(ranks)
    starts, highest = {start for start, _ in pairs}, ceil(max((rank for _, rank in pairs), default=0))
    if highest > max(starts, default=0):
        return highest, "highest rank"
    return max(starts, default=0), "start rank" if len(starts) == 1 else "highest start rank"


def heat(console: Console) -> tuple[str, ...]:
    """Styles of rank 0 and of the levels above it, as many as `console` can show."""
    return (_ZERO, *(_HEAT_16 if console.color_system in ("standard", "windows") else _HEAT))


# Sections -------------------------------------------------------------------------------------------------------------


def sections(cells: Iterable[Cell]) -> list[tuple[str, list[Cell]]]:
    """Cells by table, ``(title, cells)``: encoder first, cross attention apart.

    Two lists of blocks in one stack that number their blocks alike get a table each, titled with the path of the list.
    """
    by_kind: dict[tuple[str, bool], list[Cell]] = {}
    for cell in cells:
        by_kind.setdefault((cell.stack, cell.attention == "cross"), []).append(cell)
    result = []
    for stack, cross in sorted(by_kind, key=lambda key: (key[0] != "encoder", key[1])):
        members = by_kind[stack, cross]
        title = stack.capitalize()
        if (stack, True) in by_kind:
            title += ", cross attention" if cross else ", self attention and FFN"
        if len({(cell.block, cell.projection) for cell in members}) == len(members):
            result.append((title, members))
            continue
        by_list: dict[str, list[Cell]] = {}
        for cell in members:
            by_list.setdefault(cell.name.removesuffix(f".{cell.block}.{cell.projection}"), []).append(cell)
        result += [(f"{title}: {path}", group) for path, group in by_list.items()]
    return result


# The grid -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """One projection: the lines of its heading, the last of which stands beside its numbers."""

    heading: list[str]
    group: str
    cells: dict[int, Cell]

    @property
    def sum(self) -> float:
        return sum(cell.rank for cell in self.cells.values())


@dataclass(frozen=True)
class _Layout:
    """A way to draw the grid: headings cut or whole, blanks in a cell around its number, blanks between cells."""

    rows: list[_Row]
    pad: int
    gap: int

    @property
    def label(self) -> int:
        """Width of the headings."""
        return max(len(line) for row in self.rows for line in [*row.heading, "block"])


Paint = Callable[[Console], Callable[[Cell], str]]
"""For a console, the style of a cell."""


def rank_paint(console: Console) -> Callable[[Cell], str]:
    """Cells coloured by their rank."""
    styles = heat(console)
    return lambda cell: styles[cell.level(len(styles) - 1)]


class RankGrid:
    """Projections down, blocks across, as in every picture of ranks; sums at the right and below.

    Headings are unique suffixes of the projections' paths. Where the width does not suffice, cells stand closer, then
    headings are cut at dots and underscores into several lines, and at last the blocks are continued in a further grid
    below.

    Args:
        cells: of one stack.
        show: how a rank or a sum of ranks is written; by default with a decimal where ranks are means.
        paint: how cells are coloured; by default by their rank.
    """

    def __init__(
        self, cells: Sequence[Cell], *, show: Callable[[float], str] | None = None, paint: Paint = rank_paint
    ) -> None:
        self.blocks = sorted({cell.block for cell in cells})
        self.by_projection: dict[str, dict[int, Cell]] = {}
        for cell in cells:
            self.by_projection.setdefault(cell.projection, {})[cell.block] = cell
        self.block_sums = {block: sum(cell.rank for cell in cells if cell.block == block) for block in self.blocks}
        self.total = sum(cell.rank for cell in cells)
        self.format: Callable[[float], str] = show or formatter(cells)
        self.paint = paint
        written = [self.format(value) for value in (*(cell.rank for cell in cells), *self.block_sums.values())]
        self._digits = max(map(len, (*written, *map(str, self.blocks))))
        sums = [self.total, *(row.sum for row in self._rows(""))]
        self._sum_width = max(len("sum"), *(len(self.format(value)) for value in sums))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rule = "-" if options.ascii_only else "\u2500"
        style = self.paint(console)
        layout, parts = self._fitting(options.max_width)
        for index, blocks in enumerate(parts):
            if index:
                yield Text("")
            yield from self._lines(layout, blocks, rule, style, sums=blocks is parts[-1])

    def height(self, width: int) -> int:
        """Lines in so many columns."""
        layout, parts = self._fitting(width)
        headings = sum(len(row.heading) for row in layout.rows)
        changes = sum(1 for _ in groupby(row.group for row in layout.rows))
        return len(parts) * (headings + changes + 3) + len(parts) - 1

    def _fitting(self, width: int) -> tuple[_Layout, list[list[int]]]:
        """The first of the layouts that needs the fewest grids, and the blocks of each grid."""
        blanks = ((1, 1), (0, 2), (0, 1))
        layouts = [_Layout(self._rows(cut), pad, gap) for cut in ("", ".", "._") for pad, gap in blanks]
        ways = [(layout, self._parts(layout, width)) for layout in layouts]
        return min(ways, key=lambda way: len(way[1]))

    def _rows(self, separators: str) -> list[_Row]:
        return [
            _Row(stacked(heading, separators), next(iter(cells.values())).group, cells)
            for heading, cells in zip(headings(list(self.by_projection)), self.by_projection.values(), strict=True)
        ]

    def _parts(self, layout: _Layout, width: int) -> list[list[int]]:
        """Blocks cut into runs that fit, about equally long; a column too wide for any line stands alone."""
        cell = layout.gap + self._digits + 2 * layout.pad
        room = max((width - layout.label - 1 - len(_GAP) - self._sum_width) // cell, 1)
        parts = ceil(len(self.blocks) / room)
        each = ceil(len(self.blocks) / parts)
        return [self.blocks[start : start + each] for start in range(0, len(self.blocks), each)]

    def _lines(
        self,
        layout: _Layout,
        blocks: Sequence[int],
        rule: str,
        style: Callable[[Cell], str],
        *,
        sums: bool,
    ) -> Iterator[Text]:
        label = layout.label
        width = len(blocks) * (layout.gap + self._digits + 2 * layout.pad)
        whole = label + 1 + width + (len(_GAP) + self._sum_width if sums else 0)

        def line(head: str, written: Iterable[tuple[str, str]], total: str, *, bold: str = "") -> Text:
            made = Text(head.ljust(label) + " ", no_wrap=True, style=bold)
            for value, colour in written:
                made.append(" " * layout.gap)
                made.append(" " * layout.pad + value.rjust(self._digits) + " " * layout.pad, colour)
            return _trimmed(made.append(_GAP + total.rjust(self._sum_width)) if sums else made)

        yield line("block", ((str(block), "") for block in blocks), "sum", bold="bold")
        group = None
        for row in layout.rows:
            if row.group != group:
                group = row.group
                yield Text(f"{rule * 2} {GROUPS[group]} ".ljust(whole, rule)[:whole], style="dim", no_wrap=True)
            for part in row.heading[:-1]:
                yield Text(part, no_wrap=True)
            found = (row.cells.get(block) for block in blocks)
            written = (("-", _ZERO) if cell is None else (self.format(cell.rank), style(cell)) for cell in found)
            yield line(row.heading[-1], written, self.format(row.sum))
        yield Text(rule * whole, style="dim", no_wrap=True)
        yield line("sum", ((self.format(self.block_sums[block]), "") for block in blocks), self.format(self.total))


GROUPS = {"attention": "attention", "ffn": "FFN"}


def _trimmed(line: Text) -> Text:
    """Without blanks at its end, coloured cells excepted."""
    if not line.spans or line.spans[-1].end < len(line):
        line.rstrip()
    return line


def formatter(cells: Sequence[Cell]) -> Callable[[float], str]:
    mean = any(isinstance(cell.rank, float) for cell in cells)
    return (lambda value: f"{value:,.1f}") if mean else (lambda value: f"{value:,}")


class Legend:
    """What the colours mean; nothing where there are none."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        full, words = full_rank((cell.start_rank, cell.rank) for cell in cells)
        self.full = f"{'the ' if words.startswith('highest') else ''}{words} {full}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None or console.no_color:
            return
        line = Text("up to ")
        styles = heat(console)[1:]
        for level, style in enumerate(styles, start=1):
            line.append(f" {level}/{len(styles)} ", style)
        yield line.append(f" of {self.full}")
        yield Text("")
