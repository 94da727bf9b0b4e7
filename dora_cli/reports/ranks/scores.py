"""The importance of components at the freeze: ``dora ranks --scores``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dora_cli.reports import palette
from dora_cli.reports.curves import Scores, all_scores, cells, planned, scores
from dora_cli.reports.grid import sections
from dora_cli.reports.headings import headings

BINS = 12
BAR = 40
LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


@dataclass(frozen=True)
class Bin:
    """Components whose score is at least `low` and below `high`."""

    low: float
    high: float
    live: int
    pruned: int


def histogram(found: Scores, most: int = BINS, edge: float | None = None) -> list[Bin]:
    """Bins of equal, round width over all scores, at most `most`; one bin where all scores are equal.

    Args:
        found: the scores; at least one.
        most: how many bins.
        edge: a positive value that separates two bins; None: multiples of a round width do.
    """
    values = (*found.live, *found.pruned)
    low, high = min(values), max(values)
    width = _round_width((high - low) / (most - 1)) if high > low else 0.0
    if low + width == low:  # all alike, or as good as
        return [Bin(low, high, len(found.live), len(found.pruned))]
    start, nudge, least = 0.0, 1e-9, floor(low / width)  # 0.3 belongs to 0.3-0.4, whatever 0.3 / 0.1 comes to
    if edge is not None:
        below = floor(edge / width)
        width = edge / below if below else width  # 0, the lowest score there can be, is an edge too
        start, nudge, least = edge, 0.0, -max(below, 1)

    def place_of(value: float) -> int:
        return max(floor((value - start) / width + nudge), least)

    first = place_of(low)
    counts = [[0, 0] for _ in range(place_of(high) - first + 1)]
    for kind, members in enumerate((found.live, found.pruned)):
        for value in members:
            counts[place_of(value) - first][kind] += 1
    edges = [start + (first + place) * width for place in range(len(counts) + 1)]
    return [Bin(low, high, live, pruned) for (low, high), (live, pruned) in zip(pairwise(edges), counts, strict=True)]


def _round_width(width: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** floor(log10(width))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= width), 10 * power)


def score_tables(record: Mapping[str, Any]) -> list[RenderableType] | None:
    """The histogram of all scores, then each projection's, from top to bottom; None where the record has no scores."""
    found = all_scores(record)
    if found is None or not (found.live or found.pruned):
        return None
    parts: list[RenderableType] = [
        Text(f"Scores of all components {'at the freeze' if planned(record) else 'in the end'}", style="bold"),
        *([Text(f"Score of a component: {record['score']}")] if record.get("score") else []),
        _Histogram(histogram(found)),
        Text(""),
    ]
    parts += [Text(_cut(found)), Text("")]
    layers = {layer["name"]: layer for layer in record["layers"]}
    stacks = sections(cells(record))
    for title, members in stacks:
        if len(stacks) > 1:
            parts.append(Text(title, style="bold"))
        names = list(dict.fromkeys(cell.projection for cell in members))
        short = dict(zip(names, headings(names), strict=True))
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("block", justify="right", no_wrap=True)
        table.add_column("projection", overflow="fold")
        for heading in ("rank", "highest", "lowest live"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("live, pruned", no_wrap=True)
        highest = max((*found.live, *found.pruned))
        for cell in sorted(members, key=lambda cell: cell.block):
            own = scores(layers[cell.name])
            if own is None or not (own.live or own.pruned):
                continue
            every = (*own.live, *own.pruned)
            lowest = _number(own.live[-1]) if own.live else "-"
            values = (str(cell.rank), _number(every[0]), lowest)
            table.add_row(str(cell.block), short[cell.projection], *values, Strip(own, highest))
        parts += [table, Text("")]
    return parts[:-1]


def _cut(found: Scores) -> str:
    if not found.pruned:
        return f"All {len(found.live):,} components live, the lowest with a score of {_number(min(found.live))}."
    if not found.live:
        return f"No component lives; the highest score is {_number(max(found.pruned))}."
    return (
        f"{len(found.live):,} components live, the lowest with a score of {_number(min(found.live))}; "
        f"{len(found.pruned):,} were pruned, the highest with {_number(max(found.pruned))}."
    )


def _number(value: float) -> str:
    return f"{value:.4f}" if value >= 0.00095 or value == 0 else f"{value:.0e}"


def _edge(value: float) -> str:
    """A number of two digits where it is small: bins are so narrow that one digit does not tell their edges apart."""
    return _number(value) if value >= 0.00095 or value == 0 else f"{value:.1e}"


class _Histogram:
    def __init__(self, bins: Sequence[Bin]) -> None:
        self.bins = bins

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        live, pruned = ("#", ".") if options.ascii_only else ("\u2588", "\u2592")
        most = max(one.live + one.pruned for one in self.bins)
        digits = max(len(f"{most:,}"), 1)
        width = max(min(BAR, options.max_width - 24 - 2 * digits), 5)
        yield Text.assemble(
            " " * 18, (live, palette.RAMP[4]), " live  ", (pruned, palette.LIVE), " pruned", no_wrap=True
        )
        for one in self.bins:
            both = _cells(one.live + one.pruned, most, width)
            alive = min(_cells(one.live, most, width), both - 1 if one.pruned else both)
            line = Text(f"{_edge(one.low):>7} to {_edge(one.high):>7} ", no_wrap=True)
            line.append(live * alive, palette.RAMP[4]).append(pruned * (both - alive), palette.LIVE)
            counts = [f"{one.live:,} live" if one.live else "", f"{one.pruned:,} pruned" if one.pruned else ""]
            line.append(("  " if both else "") + ", ".join(filter(None, counts)), "dim")
            line.rstrip()
            yield line


def _cells(count: int, most: int, width: int) -> int:
    """Cells of a bar; whatever is there gets one."""
    return max(round(count / most * width), 1) if count else 0


class Strip:
    """One character for each component of a projection, the higher the more important, live ones first."""

    def __init__(self, found: Scores, highest: float) -> None:
        self.found, self.highest = found, highest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def drawn(values: Sequence[float], plain: str) -> str:
            if options.ascii_only:
                return plain * len(values)
            top = len(LEVELS) - 1
            return "".join(
                LEVELS[min(round(value / self.highest * top), top) if self.highest > 0 else 0] for value in values
            )

        line = Text(no_wrap=True)
        line.append(drawn(self.found.live, "#"), palette.RAMP[4])
        line.append("|", "dim").append(drawn(self.found.pruned, "."), palette.LIVE)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = len(self.found.live) + len(self.found.pruned) + 1
        return Measurement(min(width, options.max_width), min(width, options.max_width))
