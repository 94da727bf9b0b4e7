"""Rank maps as tables: projections down, blocks across, each cell saying all that is known of its projection.

A map that is too wide for its place is continued below: it is made of parts of a few blocks each, which stand beside
each other as one table where there is room, and otherwise each for itself, with the names of the projections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Any

from dora_cli.reports.curves import RankMap, Scores, cells, rank_maps, scores
from dora_cli.reports.grid import GROUPS, Cell, formatter
from dora_cli.reports.html.elements import Markup, Table, join, table, tag
from dora_cli.reports.html.style import LEVELS, wide_from
from dora_cli.reports.ranks.shares import groups
from dora_cli.wording import plural

PHONE = 330
"""Pixels that a part of a map may take, so that it fits a phone."""
NARROW = 84
"""Names of projections that take no more are never cut."""
CHARACTER, PAD = 7.4, 9
"""Width of a character of the map's type, and what a cell has beside its number, in pixels."""
INVITATION = "Details of a cell: point at it, tap it, or move with the arrow keys."


@dataclass(frozen=True)
class Picture:
    """A map and the pixels it needs to stand in one piece."""

    markup: Markup
    need: int


def pictures(record: Mapping[str, Any], name: str | None = None) -> list[Picture]:
    """The maps of ranks.json or of the mean of several; none where nothing was adapted. `name` is said above them."""
    maps = rank_maps(record)
    layers = {layer["name"]: layer for layer in record["layers"]}
    title = f"Mean rank over {plural(len(record['runs']), 'seed')}" if "runs" in record else "Rank of each projection"
    title = name or title
    said = f"; scores: {record['score']}" if record.get("score") else ""
    return [_picture(found, layers, title if len(maps) == 1 else f"{title}: {found.title}", said) for found in maps]


@dataclass(frozen=True)
class _Sizes:
    """Pixels: of the names of projections on one line, of those names cut at dots, of a cell, and of the sums."""

    label: int
    tight: int
    cell: int
    sum: int

    @staticmethod
    def of(found: RankMap, written: Sequence[str], sums: Sequence[str]) -> _Sizes:
        lines = [part for heading in found.headings for part in re.split(r"(?=[._])", heading)]
        label, tight, cell, total = (
            max(map(len, texts)) * CHARACTER for texts in (found.headings, [*lines, "block"], written, [*sums, "sum"])
        )
        return _Sizes(
            ceil(label) + 8, ceil(label if label <= NARROW else tight) + 8, ceil(cell) + PAD, ceil(total) + PAD
        )

    @property
    def blocks(self) -> int:
        """In a part at most."""
        return max(int((PHONE - self.tight - self.sum) // self.cell), 1)


def _picture(found: RankMap, layers: Mapping[str, Mapping[str, Any]], title: str, said: str) -> Picture:
    members = [cell for row in found.members for cell in row if cell is not None]
    show = formatter(members)
    sums = [show(sum(cell.rank for cell in row if cell is not None)) for row in found.members] + [
        show(sum(cell.rank for cell in members))
    ]
    below = [
        show(sum(cell.rank for row in found.members if (cell := row[column]) is not None))
        for column in range(len(found.blocks))
    ]
    sizes = _Sizes.of(found, [*(show(cell.rank) for cell in members), *map(str, found.blocks), *below], sums)
    need = sizes.label + sizes.cell * len(found.blocks) + sizes.sum
    columns, each = range(len(found.blocks)), ceil(len(found.blocks) / ceil(len(found.blocks) / sizes.blocks))
    parts = [columns[start : start + each] for start in range(0, len(columns), each)]
    tables = [
        _part(found, part, layers, show, below, sums if part[-1] == columns[-1] else None, sizes) for part in parts
    ]
    figure = tag(
        "figure",
        tag("figcaption", title),
        tag(
            "div",
            *tables,
            class_=f"parts {wide_from(need)}",
            style=f"--label:{sizes.label}px;--tight:{sizes.tight}px;--sum:{sizes.sum}px",
        ),
        _legend(found, said),
        tag("output", INVITATION, class_="detail", aria_live="polite", hidden=True),
        class_="ranks",
    )
    return Picture(figure, need)


def _part(
    found: RankMap,
    columns: Sequence[int],
    layers: Mapping[str, Mapping[str, Any]],
    show: Any,
    below: Sequence[str],
    sums: Sequence[str] | None,
    sizes: _Sizes,
) -> Markup:
    """Some blocks of a map; the last part has the sums of the projections."""
    blocks = [tag("th", f"{found.blocks[column]}", scope="col") for column in columns]
    head = tag(
        "tr", tag("th", "block", scope="row"), *blocks, tag("th", "sum", scope="col", class_="sum") if sums else None
    )
    width = len(columns) + bool(sums)  # not over the names too: parts without names would have a column too many
    bodies = []
    for group, members in groupby(range(len(found.projections)), key=lambda row: found.groups[row]):
        rows = [tag("tr", tag("th", GROUPS[group], scope="rowgroup", colspan=width), class_="group-name")]
        for row in members:
            line: list[object] = [tag("th", _breakable(found.headings[row]), scope="row", title=found.projections[row])]
            for column in columns:
                cell = found.members[row][column]
                line.append(
                    tag("td", "\u2013", class_="none")
                    if cell is None
                    else _cell(cell, layers[cell.name], show(cell.rank))
                )
            rows.append(tag("tr", *line, tag("td", sums[row], class_="sum") if sums else None))
        bodies.append(tag("tbody", *rows))
    foot = tag(
        "tr",
        tag("th", "sum", scope="row"),
        *(tag("td", below[column]) for column in columns),
        tag("td", sums[-1]) if sums else None,
    )
    return tag(
        "table",
        tag(
            "colgroup",
            tag("col", class_="head"),
            tag("col", span=len(columns)),
            tag("col", class_="last") if sums else None,
        ),
        tag("thead", head),
        *bodies,
        tag("tfoot", foot),
        class_="map",
        style=f"flex:{len(columns)} 1 {sizes.label * (columns[0] == 0) + sizes.sum * bool(sums)}px",
    )


def _breakable(heading: str) -> Markup:
    """May be cut before its dots and underscores."""
    return join(re.split(r"(?=[._])", heading), tag("wbr"))


def _cell(cell: Cell, layer: Mapping[str, Any], written: str) -> Markup:
    return tag("td", written, class_=f"q{level(cell.share)}", title="\n".join(details(cell, layer)), tabindex=-1)


def level(share: float) -> int:
    """The colour of a rank that is `share` of the strongest colour's: 0 for rank 0, else 1 to `LEVELS`."""
    return min(max(round(share * LEVELS), 1), LEVELS) if share > 0 else 0


def details(cell: Cell, layer: Mapping[str, Any]) -> list[str]:
    """What is known of one projection, a line each.

    Args:
        cell: the projection.
        layer: its entry in ranks.json or in the mean of several.
    """
    mean = isinstance(cell.rank, float)
    rows, columns = cell.shape
    lines = [cell.name, f"rank {cell.rank:.2f}" if mean else f"rank {cell.rank}"]
    if layer.get("sd") is not None:
        lines[-1] += f" \u00b1 {layer['sd']:.2f} (seeds: {', '.join(map(str, layer['ranks']))})"
    lines[-1] += f" of {cell.start_rank} at the start" if cell.rank <= cell.start_rank else _grown(layer)
    lines.append(f"{rows:,} x {columns:,}, {cell.parameters:,.0f} parameters")
    found = scores(layer)
    if found is not None:
        lines.append(_importance(found))
    return lines


def _grown(layer: Mapping[str, Any]) -> str:
    """Which links a projection's components came with; of a mean of runs that is not known."""
    links = layer.get("links")
    return f", of links {', '.join(map(str, links))}" if links else ""


def _importance(found: Scores) -> str:
    parts = []
    if found.live:
        parts.append(
            f"live {found.live[-1]:.3g} to {found.live[0]:.3g}" if len(found.live) > 1 else f"live {found.live[0]:.3g}"
        )
    if found.pruned:
        parts.append(f"pruned up to {found.pruned[0]:.3g}")
    return "scores: " + ", ".join(parts)


def _legend(found: RankMap, said: str) -> Markup:
    steps = []
    for step in range(0, LEVELS + 1, 2):
        label = {0: "0", LEVELS: str(found.full)}.get(step, "")
        steps.append(tag("span", label, class_=f"q{step}"))
    return tag("p", "rank ", tag("span", *steps, class_="ramp"), f" {found.full_name}{said}", class_="note")


def shares(record: Mapping[str, Any]) -> Table:
    """What attention and FFN got of the budget; of an encoder-decoder by stack."""
    members = cells(record)
    total, show = sum(cell.rank for cell in members), formatter(members)

    def row(label: str, part: Sequence[Cell]) -> list[object]:
        rank = sum(cell.rank for cell in part)
        share = f"{100 * rank / total:.1f} %" if total else "\u2013"
        return [
            label,
            f"{len(part):,}",
            f"{rank / len(part):.2f}",
            show(rank),
            share,
            f"{sum(cell.parameters for cell in part):,.0f}",
        ]

    head = ["", "projections", "mean rank", "sum", "share", "parameters"]
    return table(head, [row(label, part) for label, part in groups(members)], foot=[row("all", members)])
