"""Rank maps as tables: blocks down, projections across, coloured like the plots, each cell saying all that is known of its projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from dora_cli.reports import palette
from dora_cli.reports.curves import RankMap, Scores, cells, rank_maps, scores
from dora_cli.reports.grid import GROUPS, Cell, formatter
from dora_cli.reports.html.elements import Markup, table, tag
from dora_cli.reports.shares import groups
from dora_cli.wording import plural

LEVELS = 6


def rank_map(record: Mapping[str, Any]) -> Markup | None:
    """The maps of ranks.json or of the mean of several, beside each other where there is room; None where nothing was adapted."""
    maps = rank_maps(record)
    if not maps:
        return None
    layers = {layer["name"]: layer for layer in record["layers"]}
    what = f"Mean rank over {plural(len(record['runs']), 'seed')}" if "runs" in record else "Rank"
    title = f"{what} by block and projection"
    if len(maps) == 1:
        return tag("div", _figure(maps[0], layers, title), class_="maps")
    figures = (_figure(found, layers, found.title) for found in maps)
    return tag("div", tag("h3", title), tag("div", *figures, class_="several"), class_="maps")


def _figure(found: RankMap, layers: Mapping[str, Mapping[str, Any]], title: str) -> Markup:
    members = [cell for row in found.members for cell in row if cell is not None]
    show = formatter(members)
    top: list[object] = [tag("td", rowspan=2)]
    for group, columns in groupby(found.groups):
        top.append(tag("th", GROUPS[group], colspan=len(list(columns)), scope="colgroup"))
    top.append(tag("td", rowspan=2))
    names = [
        tag("th", tag("span", heading), scope="col", title=path) for heading, path in zip(found.headings, found.projections, strict=True)
    ]
    rows = []
    for column, block in enumerate(found.blocks):
        line: list[object] = [tag("th", f"{block}", scope="row")]
        for index in range(len(found.projections)):
            cell = found.members[index][column]
            line.append(tag("td", "\u2013", class_="none") if cell is None else _cell(cell, layers[cell.name], show(cell.rank)))
        total = sum(cell.rank for row in found.members if (cell := row[column]) is not None)
        rows.append(tag("tr", *line, tag("td", show(total), class_="sum")))
    sums = [show(sum(cell.rank for cell in row if cell is not None)) for row in found.members]
    foot = tag(
        "tr", tag("th", "sum", scope="row"), *(tag("td", value) for value in sums), tag("td", show(sum(cell.rank for cell in members)))
    )
    grid = tag(
        "table",
        tag("thead", tag("tr", *top), tag("tr", *names)),
        tag("tbody", *rows),
        tag("tfoot", foot),
        class_="map",
    )
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", grid, class_="scroll"),
        _legend(found),
        tag("output", class_="detail", aria_live="polite", hidden=True),
        class_="ranks" + (" long" if len(found.blocks) > 36 else ""),
    )


def _cell(cell: Cell, layer: Mapping[str, Any], written: str) -> Markup:
    background = palette.shade(cell.rank / cell.start_rank if cell.start_rank else 0)
    return tag(
        "td",
        written,
        style=f"background:{background};color:{palette.ink(background)}",
        title="\n".join(details(cell, layer)),
        tabindex=-1,
    )


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
    lines[-1] += f" of {cell.start_rank} at the start"
    lines.append(f"{rows:,} x {columns:,}, {cell.parameters:,.0f} parameters")
    found = scores(layer)
    if found is not None:
        lines.append(_importance(found))
    return lines


def _importance(found: Scores) -> str:
    parts = []
    if found.live:
        parts.append(f"live {found.live[-1]:.3g} to {found.live[0]:.3g}" if len(found.live) > 1 else f"live {found.live[0]:.3g}")
    if found.pruned:
        parts.append(f"pruned up to {found.pruned[0]:.3g}")
    return "scores: " + ", ".join(parts)


def _legend(found: RankMap) -> Markup:
    steps = []
    for level in range(LEVELS + 1):
        background = palette.shade(level / LEVELS)
        label = {0: "0", LEVELS: str(found.start_rank)}.get(level, "")
        steps.append(tag("span", label, style=f"background:{background};color:{palette.ink(background)}"))
    return tag("p", "rank ", tag("span", *steps, class_="ramp"), " start rank", class_="note")


def shares(record: Mapping[str, Any]) -> Markup:
    """What attention and FFN got of the budget; of an encoder-decoder by stack."""
    members = cells(record)
    total, show = sum(cell.rank for cell in members), formatter(members)

    def row(label: str, part: Sequence[Cell]) -> list[object]:
        rank = sum(cell.rank for cell in part)
        share = f"{100 * rank / total:.1f} %" if total else "\u2013"
        return [label, f"{len(part):,}", f"{rank / len(part):.2f}", show(rank), share, f"{sum(cell.parameters for cell in part):,.0f}"]

    head = ["", "projections", "mean rank", "sum", "share", "parameters"]
    return table(head, [row(label, part) for label, part in groups(members)], foot=[row("all", members)], class_="numbers")
