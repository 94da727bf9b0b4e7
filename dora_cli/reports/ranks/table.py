"""The table of ranks: every projection's rank, and what attention and FFN got of the budget.

Encoder and decoder, self and cross attention are separate tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import cells as rank_cells
from dora_cli.reports.curves import counts_parameters
from dora_cli.reports.grid import GROUPS, Cell, Legend, RankGrid, formatter, sections
from dora_cli.reports.ranks.shares import groups
from dora_cli.runs.records.ranks import RanksRecord, validate_ranks
from dora_cli.wording import plural


def ranks_table(record: Mapping[str, Any], *, grid: bool = True) -> list[RenderableType]:
    """The tables of ranks.json, or of `mean_ranks`, from top to bottom.

    Args:
        record: the content of ranks.json, or what `mean_ranks` returns.
        grid: False leaves out the tables of projections by blocks and keeps the sums.

    Raises:
        CheckpointError: the record is damaged.
    """
    cells = checked_cells(record)
    if not cells:
        return [Text("This run has no ranks to show: its method adapts no projection, or gives none a rank.")]
    found = sections(cells)
    parts: list[RenderableType] = []
    if grid:
        for title, members in found:
            if len(found) > 1:
                parts.append(Text(title, style="bold"))
            parts += [RankGrid(members), Text("")]
        parts.append(Legend(cells))
    parts.append(_shares(cells))
    parts += [Text(""), Text(_budget(record, cells))]
    return parts


def checked_cells(record: Mapping[str, Any]) -> list[Cell]:
    """The cells of ranks.json, which is checked, or of `mean_ranks`. Raises CheckpointError."""
    if "runs" not in record:
        validate_ranks(record)
    return rank_cells(record)


def render(record: Mapping[str, Any], console: Console, *, grid: bool = True) -> None:
    """Prints `ranks_table` on `console`."""
    for part in ranks_table(record, grid=grid):
        console.print(part)


def grid_lines(record: Mapping[str, Any], width: int) -> int:
    """How many lines the tables of projections by blocks need in so many columns, to decide whether they fit."""
    return sum(RankGrid(members).height(width) for _, members in sections(checked_cells(record)))


def mean_ranks(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean ranks over runs that differ in their seed, in the layout of ranks.json.

    Args:
        records: name of the run -> content of its ranks.json; at least one.

    Returns:
        ``schema_version, runs`` (names), ``unit, start_rank, target_rank, live_components`` (mean) and ``layers``, in
        which ``rank`` is the mean, ``sd`` the standard deviation (n - 1; None for one run) and ``ranks`` the rank in
        each run; ``parameters``, where the runs have them, is a mean, too. Scores, whose components are not the same
        ones in different runs, and the history are left out.

    Raises:
        CheckpointError: a record is damaged, or the runs do not adapt the same projections with the same start ranks.
    """
    checked = {name: validate_ranks(record, f"ranks.json of {name}") for name, record in records.items()}
    first_name, first = next(iter(checked.items()))
    for name, record in checked.items():
        if _frame(record) != _frame(first):
            raise CheckpointError(
                f"{first_name} and {name} are not runs of one recipe: they adapt different projections or start from "
                "different ranks. Name one of the runs instead of their folder."
            )
    layers = []
    for index, layer in enumerate(first.layers):
        ranks = [record.layers[index].rank for record in checked.values()]
        stored = [record.layers[index].parameters for record in checked.values()]
        known = [one for one in stored if one is not None]
        layers.append(
            {
                **layer.model_dump(exclude={"scores", "rank", "links", "parameters", "live"}),
                "rank": float(mean(ranks)),
                "sd": stdev(ranks) if len(ranks) > 1 else None,
                "ranks": ranks,
                **({"parameters": float(mean(known))} if len(known) == len(stored) else {}),
            }
        )
    return {
        "schema_version": first.schema_version,
        "runs": list(checked),
        "unit": first.unit,
        "start_rank": first.start_rank,
        "target_rank": first.target_rank,
        **({} if first.counts is None else {"counts": first.counts}),
        "live_components": float(mean(record.live_components for record in checked.values())),
        "layers": layers,
    }


def _frame(record: RanksRecord) -> object:
    layers = [(layer.name, tuple(layer.shape), layer.start_rank) for layer in record.layers]
    return record.unit, record.start_rank, record.target_rank, layers


# The sums -------------------------------------------------------------------------------------------------------------


def _shares(cells: Sequence[Cell]) -> Table:
    """What each kind of projection got of the live components."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for heading in ("projections", "mean rank", "sum", "share", "parameters"):
        table.add_column(heading, justify="right")
    total = sum(cell.rank for cell in cells)
    show = formatter(cells)

    def add(label: str, members: Sequence[Cell], style: str = "") -> None:
        rank = sum(cell.rank for cell in members)
        share = f"{100 * rank / total:.1f}%" if total else "-"
        parameters = f"{sum(cell.parameters for cell in members):,.0f}"
        table.add_row(
            label, f"{len(members):,}", f"{rank / len(members):.2f}", show(rank), share, parameters, style=style
        )

    by_group = [(GROUPS[group], [cell for cell in cells if cell.group == group]) for group in GROUPS]
    kinds = groups(cells)
    if [label for label, _ in kinds] != [label for label, members in by_group if members]:
        for label, members in kinds:
            add(label, members)
        table.add_section()
    for label, members in by_group:
        if members:
            add(label, members)
    table.add_section()
    add("all", cells, style="bold")
    return table


def keeps_ranks(record: Mapping[str, Any]) -> bool:
    """Whether the ranks of ranks.json, or of the mean of several, are those of the start, as they were meant to be."""
    start, target = sum(layer["start_rank"] for layer in record["layers"]), record["target_rank"]
    return record["live_components"] == start and target in (None, record["start_rank"])


def _budget(record: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    live, target = record["live_components"], record["target_rank"]
    show, many = formatter(cells), f" x {plural(len(cells), 'projection')}"
    unit = plural(2, str(record["unit"])).removeprefix("2 ")
    if keeps_ranks(record):
        each = "" if record["start_rank"] is None else f" (rank {record['start_rank']}{many})"
        return f"{show(live)} {unit}{each}, from the start to the end"
    lines = [f"Live: {show(live)} {unit}"]
    allowed = None if target is None else target * len(cells)
    if counts_parameters(record):
        allowed, left = None, sum(cell.parameters for cell in cells)
        most = target * sum(sum(cell.shape) for cell in cells)
        lines[0] += f", {left:,.0f} of a budget of {plural(most, 'parameter')} (rank {target}{many})"
    elif target is not None:
        lines[0] += f" of a budget of {target * len(cells):,} (rank {target}{many})"
    if links := [link for layer in record["layers"] for link in layer.get("links") or ()]:
        lines.append(f"Grown in {plural(max(links), 'round')}, one after the other")
        return "\n".join(lines)
    if live and not any(cell.start_rank for cell in cells):  # they grow from none
        return lines[0]
    lines.append(f"Start: {sum(cell.start_rank for cell in cells):,} {unit}")
    if record["start_rank"] is not None and all(cell.start_rank == record["start_rank"] for cell in cells):
        lines[1] += f" (rank {record['start_rank']}{many})"
    if allowed is not None and live > allowed:
        lines.append("More than the budget lives: the run was stopped before its ranks were frozen.")
    return "\n".join(lines)


def header(title: str, facts: Sequence[str]) -> Group:
    """The lines above a run's tables: where it is and what it was."""
    return Group(Text(title, style="bold", overflow="fold"), *(Text(fact, overflow="fold") for fact in facts), Text(""))
