"""What each kind of projection, each block, or attention and FFN got of the budget: ``dora ranks --by``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dora_cli.reports import palette
from dora_cli.reports.curves import rank_maps
from dora_cli.reports.grid import GROUPS, Cell, formatter

By = str
"""``projection``, ``block`` or ``group``; the command offers no other."""
Rows = list[tuple[str, list[Cell]]]
BAR = 12


def members(record: Mapping[str, Any], by: By) -> list[tuple[str, Rows]]:
    """The cells of a record by the rows of a table: ``(title, [(label, cells), ...])`` of each stack, or one for all
    with `group`.
    """
    maps = rank_maps(record)
    if by == "group":
        return [("", groups([cell for found in maps for row in found.members for cell in row if cell is not None]))]
    tables = []
    for found in maps:
        if by == "projection":
            rows = [(heading, list(row)) for heading, row in zip(found.headings, found.members, strict=True)]
        else:
            rows = [
                (f"block {block}", [row[index] for row in found.members]) for index, block in enumerate(found.blocks)
            ]
        tables.append(
            (
                found.title if len(maps) > 1 else "",
                [(label, [cell for cell in row if cell is not None]) for label, row in rows],
            )
        )
    return tables


def groups(cells: Sequence[Cell]) -> Rows:
    """Attention and FFN; of an encoder-decoder those of encoder and decoder, and cross-attention."""
    kinds: dict[tuple[str, str, str | None], list[Cell]] = {}
    for cell in cells:
        kinds.setdefault((cell.stack, cell.group, cell.attention), []).append(cell)
    order = sorted(kinds, key=lambda kind: (kind[0] != "encoder", kind[1] != "attention", kind[2] == "cross"))
    several = len({kind[0] for kind in kinds}) > 1 or any(kind[2] == "cross" for kind in kinds)
    return [(_kind(*kind) if several else GROUPS[kind[1]], kinds[kind]) for kind in order]


def _kind(stack: str, group: str, attention: str | None) -> str:
    return f"{stack} {attention} attention" if group == "attention" and attention else f"{stack} {GROUPS[group]}"


def shares_table(record: Mapping[str, Any], by: By) -> list[RenderableType]:
    """The tables of ``--by``, from top to bottom: mean, range and sum of ranks, their share, and a bar of the mean."""
    tables = members(record, by)
    every = [cell for _, rows in tables for _, row in rows for cell in row]
    total = sum(cell.rank for cell in every)
    show, most = formatter(every), every[0].full
    grown = most > max(cell.start_rank for cell in every)
    parts: list[RenderableType] = []
    label_width = max(len(label) for _, rows in tables for label, _ in [*rows, ("all", [])])
    for title, rows in tables:
        if title:
            parts.append(Text(title, style="bold"))
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", min_width=min(label_width, 24), overflow="fold")
        for heading in ("count", "mean rank", "range", "sum", "share"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column(f"0 to {most}", width=BAR, no_wrap=True)
        for label, row in _with_total(rows, tables):
            ranks = [cell.rank for cell in row]
            rank = sum(ranks)
            table.add_row(
                label,
                f"{len(row):,}",
                f"{rank / len(row):.2f}",
                f"{show(min(ranks))}-{show(max(ranks))}",
                show(rank),
                f"{100 * rank / total:.1f}%" if total else "-",
                Bar(rank / max(most * len(row) if grown else sum(cell.start_rank for cell in row), 1)),
                style="bold" if label == "all" else "",
            )
        parts += [table, Text("")]
    return parts[:-1]


def _with_total(rows: Rows, tables: Sequence[tuple[str, Rows]]) -> Iterator[tuple[str, list[Cell]]]:
    yield from rows
    if rows is tables[-1][1]:
        yield "all", [cell for _, found in tables for _, row in found for cell in row]


class Bar:
    """A share between 0 and 1 as a bar of `BAR` cells."""

    def __init__(self, share: float, colour: str = palette.RAMP[4]) -> None:
        self.share, self.colour = share, colour

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(bar(self.share, BAR, ascii_only=options.ascii_only), style=self.colour, no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(BAR, BAR)


EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"


def bar(share: float, width: int, *, ascii_only: bool) -> str:
    """A bar from left to right, exact to an eighth of a character (to a whole one in ASCII); anything above 0 leaves a
    trace.
    """
    share = min(max(share, 0.0), 1.0)
    if ascii_only:
        return "#" * (max(round(share * width), 1) if share else 0)
    eighths = max(round(share * width * 8), 1) if share else 0
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()
