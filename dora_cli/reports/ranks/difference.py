"""Where two runs put their budget differently: ``dora ranks --compare``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dora_cli.errors import CheckpointError
from dora_cli.reports import palette
from dora_cli.reports.curves import cells as rank_cells
from dora_cli.reports.grid import Cell, Paint, RankGrid, formatter, sections
from dora_cli.reports.ranks.shares import By, members

LEVELS = 4
_16 = {-1: "black on yellow", 1: "black on cyan"}


def differences(record: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> dict[str, Any]:
    """A record like ranks.json whose ranks are those of `record` minus those of `other`.

    Args:
        record: ranks.json or the mean of several.
        other: likewise.
        names: of both, for errors.

    Raises:
        CheckpointError: they do not adapt the same projections.
    """
    _same_projections(record, other, names)
    there = {layer["name"]: layer for layer in other["layers"]}
    layers = [{**layer, "rank": layer["rank"] - there[layer["name"]]["rank"]} for layer in record["layers"]]
    return {**record, "layers": layers}


def _same_projections(record: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> None:
    here, there = ({layer["name"]: tuple(layer["shape"]) for layer in one["layers"]} for one in (record, other))
    if here == there:
        return
    problems = []
    for name, one, two in ((names[0], here, there), (names[1], there, here)):
        alone = [projection for projection in one if projection not in two]
        if alone:
            more = f" and {len(alone) - 2:,} more" if len(alone) > 2 else ""
            problems.append(f"only {name} adapts {', '.join(alone[:2])}{more}")
    shapes = [projection for projection in here if here[projection] != there.get(projection, here[projection])]
    if shapes:
        mine, theirs = (" x ".join(map(str, shape)) for shape in (here[shapes[0]], there[shapes[0]]))
        problems.append(f"{shapes[0]} is {mine} in {names[0]} and {theirs} in {names[1]}")
    raise CheckpointError(
        f"{names[0]} and {names[1]} do not adapt the same projections, so their ranks cannot be compared: "
        f"{'; '.join(problems)}. Compare runs of one base model with the same method.targets."
    )


def difference_table(
    record: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str], *, by: By | None = None
) -> list[RenderableType]:
    """The tables of ``--compare``, from top to bottom: a map of signed differences, or with `by` the sums of both runs
    side by side.

    Raises CheckpointError as `differences` does.
    """
    difference = differences(record, other, names)
    parts: list[RenderableType] = []
    if by is None:
        cells = rank_cells(difference)
        found = sections(cells)
        largest = max(abs(cell.rank) for cell in cells)
        show = signed(cells)
        for title, group in found:
            if len(found) > 1:
                parts.append(Text(title, style="bold"))
            parts += [RankGrid(group, show=show, paint=_paint(largest)), Text("")]
        parts.append(_Legend(largest, show))
    for title, table in _sums(record, difference, names, by or "group"):
        parts += [Text(title, style="bold"), table, Text("")] if title else [table, Text("")]
    return [*parts, Text(_moved(record, other, difference))]


def signed(cells: Sequence[Cell]) -> Callable[[float], str]:
    """How a difference is written: with its sign, 0 without; a decimal where ranks are means."""
    plain = formatter(cells)
    return lambda value: (
        ("+" if value > 0 and plain(value).strip("0.") else "") + (plain(value) if plain(value).strip("-0.") else "0")
    )


def _paint(largest: float) -> Paint:
    def paint(console: Console) -> Callable[[Cell], str]:
        return lambda cell: style(cell.rank, largest, console)

    return paint


def style(value: float, largest: float, console: Console) -> str:
    """The style of a difference: orange for fewer, blue for more, the darker the larger, in few steps."""
    if not value:
        return "dim"
    if console.color_system in ("standard", "windows"):
        return _16[1 if value > 0 else -1]
    level = -(-abs(value) * LEVELS // largest)  # rounded up
    return palette.on(palette.difference((level if value > 0 else -level) / LEVELS))


class _Legend:
    def __init__(self, largest: float, show: Callable[[float], str]) -> None:
        self.largest, self.show = largest, show

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system is None or console.no_color or not self.largest:
            return
        line = Text()
        for value, words in ((-self.largest, "fewer"), (self.largest, "more")):
            line.append(f" {self.show(value)} ", style(value, self.largest, console)).append(f" {words}   ")
        line.rstrip()
        yield line
        yield Text("")


def _sums(
    record: Mapping[str, Any], difference: Mapping[str, Any], names: tuple[str, str], by: By
) -> list[tuple[str, Table]]:
    """Per row of ``--by`` the sums of both runs and their difference.

    The record's and the difference's rows are alike.
    """
    result = []
    tables = list(zip(members(record, by), members(difference, by), strict=True))
    every = [cell for (_, rows), _ in tables for _, row in rows for cell in row]
    every_difference = [cell for _, (_, rows) in tables for _, row in rows for cell in row]
    show, sign = formatter([*every, *every_difference]), signed([*every, *every_difference])
    for (title, rows), (_, changes) in tables:
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True)
        for heading in ("count", "sum", "sum there", "difference"):
            table.add_column(heading, justify="right", no_wrap=True)
        lines = [(label, row, change) for (label, row), (_, change) in zip(rows, changes, strict=True)]
        if (title, rows) == tables[-1][0]:
            lines.append(("all", every, every_difference))
        for label, row, change in lines:
            here, moved = sum(cell.rank for cell in row), sum(cell.rank for cell in change)
            table.add_row(
                label,
                f"{len(row):,}",
                show(here),
                show(here - moved),
                sign(moved),
                style="bold" if label == "all" else "",
            )
        result.append((title, table))
    return result


def _moved(record: Mapping[str, Any], other: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    """How alike the two allocations are, in one line."""
    changes = [layer["rank"] for layer in difference["layers"]]
    more, fewer = sum(change for change in changes if change > 0), -sum(change for change in changes if change < 0)
    alike = sum(1 for change in changes if not change)
    show = formatter(rank_cells(difference))
    counts = (
        f"{show(more)} more and {show(fewer)} fewer {record['unit']}s; {alike:,} of {len(changes):,} projections alike"
    )
    here, there = record["live_components"], other["live_components"]
    return counts + (
        "."
        if here == there
        else f". The runs differ in live {record['unit']}s: {show(here)} here, {show(there)} there."
    )
