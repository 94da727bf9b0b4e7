"""The grid of ranks: blocks down, projections across, coloured by rank, at any width.

A cell's background tells its rank as a share of its start rank, in sixths; the number says it without colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    """One projection of the table; `rank` is a float where it is a mean over runs."""

    name: str
    stack: str
    block: int
    attention: str | None
    projection: str
    group: str
    shape: tuple[int, int]
    start_rank: int
    rank: int | float

    @property
    def parameters(self) -> float:
        """Of the factors A and B."""
        return self.rank * sum(self.shape)

    def level(self, levels: int) -> int:
        """Which of `levels` equal shares of the start rank the rank falls into, from 1; 0 for rank 0."""
        return min(ceil(self.rank / self.start_rank * levels), levels) if self.rank else 0


def heat(console: Console) -> tuple[str, ...]:
    """Styles of rank 0 and of the levels above it, as many as `console` can show."""
    return (_ZERO, *(_HEAT_16 if console.color_system in ("standard", "windows") else _HEAT))


# Sections -----------------------------------------------------------------------------------------------------------------------


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


# The grid -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    heading: list[str]
    group: str
    cells: dict[int, Cell]
    width: int

    @property
    def sum(self) -> float:
        return sum(cell.rank for cell in self.cells.values())


Paint = Callable[[Console], Callable[[Cell], str]]
"""For a console, the style of a cell."""


def rank_paint(console: Console) -> Callable[[Cell], str]:
    """Cells coloured by their rank."""
    styles = heat(console)
    return lambda cell: styles[cell.level(len(styles) - 1)]


class RankGrid:
    """Blocks down, projections across, sums at the right and below.

    Headings are unique suffixes of the projections' paths; where the width does not suffice they are stacked at dots, then at
    underscores too, and at last the columns are continued in a further grid below.

    Args:
        cells: of one stack.
        show: how a rank or a sum of ranks is written; by default with a decimal where ranks are means.
        paint: how cells are coloured; by default by their rank.
    """

    def __init__(self, cells: Sequence[Cell], *, show: Callable[[float], str] | None = None, paint: Paint = rank_paint) -> None:
        self.blocks = sorted({cell.block for cell in cells})
        self.by_projection: dict[str, dict[int, Cell]] = {}
        for cell in cells:
            self.by_projection.setdefault(cell.projection, {})[cell.block] = cell
        self.row_sums = {block: sum(cell.rank for cell in cells if cell.block == block) for block in self.blocks}
        self.total = sum(cell.rank for cell in cells)
        self.format: Callable[[float], str] = show or formatter(cells)
        self.paint = paint

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(20, options.max_width), options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = self._columns("")
        for separators in (".", "._"):
            if self._width(columns) > options.max_width:
                columns = self._columns(separators)
        rule = "-" if options.ascii_only else "\u2500"
        style = self.paint(console)
        for index, part in enumerate(self._parts(columns, options.max_width)):
            if index:
                yield Text("")
            yield from self._lines(part, rule, style, sums=part[-1] is columns[-1])

    def _columns(self, separators: str) -> list[_Column]:
        result = []
        for heading, cells in zip(headings(list(self.by_projection)), self.by_projection.values(), strict=True):
            lines = stacked(heading, separators)
            values = [self.format(cell.rank) for cell in cells.values()]
            values.append(self.format(sum(cell.rank for cell in cells.values())))
            width = max(len(text) for text in (*lines, *values))
            result.append(_Column(lines, next(iter(cells.values())).group, cells, width))
        return result

    @property
    def _label_width(self) -> int:
        return max(len("block"), *(len(str(block)) for block in self.blocks))

    @property
    def _sum_width(self) -> int:
        return max(len("sum"), len(self.format(self.total)))

    def _width(self, columns: Sequence[_Column]) -> int:
        return self._label_width + sum(len(_GAP) + column.width for column in columns) + len(_GAP) + self._sum_width

    def _parts(self, columns: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
        """Columns cut into runs that fit; a column too wide for any line stands alone."""
        part: list[_Column] = []
        for column in columns:
            if part and self._width([*part, column]) > width:
                yield part
                part = []
            part.append(column)
        yield part

    def _lines(self, columns: Sequence[_Column], rule: str, style: Callable[[Cell], str], *, sums: bool) -> Iterator[Text]:
        label, total = self._label_width, self._sum_width
        yield self._groups(columns, rule)
        height = max(len(column.heading) for column in columns)
        for row in range(height):
            last = row == height - 1
            line = Text(no_wrap=True, style="bold")
            line.append(("block" if last else "").rjust(label))
            for column in columns:
                padded = [""] * (height - len(column.heading)) + column.heading
                line.append(_GAP + padded[row].center(column.width))
            if sums:
                line.append(_GAP + ("sum" if last else "").rjust(total))
            yield _trimmed(line)
        ruler = Text(_GAP.join(rule * column.width for column in columns), no_wrap=True, style="dim")
        ruler = Text(rule * label + _GAP, style="dim").append_text(ruler)
        yield ruler.append(_GAP + rule * total) if sums else ruler
        for block in self.blocks:
            line = Text(no_wrap=True)
            line.append(str(block).rjust(label))
            for column in columns:
                line.append(_GAP)
                cell = column.cells.get(block)
                if cell is None:
                    line.append(self._centred("-", column), _ZERO)
                else:
                    line.append(self._centred(self.format(cell.rank), column), style(cell))
            if sums:
                line.append(_GAP + self.format(self.row_sums[block]).rjust(total))
            yield _trimmed(line)
        yield ruler
        line = Text(no_wrap=True)
        line.append("sum".rjust(label))
        for column in columns:
            line.append(_GAP + self._centred(self.format(column.sum), column))
        if sums:
            line.append(_GAP + self.format(self.total).rjust(total), "bold")
        yield _trimmed(line)

    def _centred(self, value: str, column: _Column) -> str:
        """Digits right-aligned among themselves, and as a body in the middle of the column."""
        return value.rjust(len(self.format(column.sum))).center(column.width)

    def _groups(self, columns: Sequence[_Column], rule: str) -> Text:
        """The line over the headings: which columns are attention and which FFN."""
        line = Text(" " * self._label_width, no_wrap=True, style="dim")
        start = 0
        for index in range(1, len(columns) + 1):
            if index < len(columns) and columns[index].group == columns[start].group:
                continue
            width = sum(column.width for column in columns[start:index]) + len(_GAP) * (index - start - 1)
            name = GROUPS[columns[start].group]
            line.append(_GAP + (f" {name} ".center(width, rule) if width >= len(name) + 4 else name[:width].center(width)))
            start = index
        return _trimmed(line)


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
        starts = {cell.start_rank for cell in cells}
        self.start = f"start rank {starts.pop()}" if len(starts) == 1 else "each projection's start rank"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None or console.no_color:
            return
        line = Text("up to ")
        styles = heat(console)[1:]
        for level, style in enumerate(styles, start=1):
            line.append(f" {level}/{len(styles)} ", style)
        yield line.append(f" of {self.start}")
        yield Text("")
