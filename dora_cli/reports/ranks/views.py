"""What `dora ranks` shows and draws of a folder, by its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console, RenderableType

from dora_cli.json_text import to_json
from dora_cli.reports.curves import budget_curve
from dora_cli.reports.plots import canvas
from dora_cli.reports.plots.draw import (
    What,
    draw_budget,
    draw_difference,
    draw_map,
    draw_scores,
    draw_training,
    no_budget,
    no_ranks,
    no_scores,
)
from dora_cli.reports.ranks.difference import difference_table
from dora_cli.reports.ranks.history import history
from dora_cli.reports.ranks.rank_pattern import rank_pattern
from dora_cli.reports.ranks.scores import score_tables
from dora_cli.reports.ranks.shares import By, shares_table
from dora_cli.reports.ranks.table import header, ranks_table
from dora_cli.reports.runs import FoundRanks, RunCurves, find_curves, find_ranks


@dataclass(frozen=True)
class View:
    """A folder and how to look at it; at most one of the options is set, but `by` may go with `compare`."""

    folder: Path
    by: By | None = None
    scores: bool = False
    history: bool = False
    compare: Path | None = None

    @property
    def picture(self) -> What:
        """The picture that shows what the text shows."""
        return "scores" if self.scores else "budget" if self.history else "map"

    @cached_property
    def found(self) -> FoundRanks:
        """The ranks. Raises CheckpointError."""
        return find_ranks(self.folder)

    @cached_property
    def other(self) -> FoundRanks:
        """The ranks compared to. Raises CheckpointError."""
        assert self.compare is not None
        return find_ranks(self.compare)

    @cached_property
    def curves(self) -> RunCurves:
        """The records over steps. Raises CheckpointError."""
        return find_curves(self.folder)

    @property
    def json(self) -> str:
        return self.found.json

    @property
    def rank_pattern(self) -> str:
        """The ranks for PEFT, as JSON. Raises CheckpointError, RecipeError."""
        return to_json(rank_pattern(self.found))


def show(view: View, console: Console) -> None:
    """Prints the view. Raises CheckpointError."""
    title, facts, parts = _parts(view)
    console.print(header(title, facts))
    for part in parts:
        console.print(part)


def _parts(view: View) -> tuple[str, Sequence[str], list[RenderableType]]:
    """The title, the lines below it, and what follows; all of it made before a line is printed."""
    if view.history:
        curves = view.curves
        curve = budget_curve(curves.ranks, curves.metrics, curves.log)
        if curve is None:
            raise no_budget(curves)
        return str(view.folder), curves.facts, history(curve, (curves.ranks or {}).get("unit", "component"))
    found = view.found
    record, special = found.record, view.by or view.scores or view.compare
    if special and not record["layers"]:
        raise no_ranks(found.title)
    if view.compare is not None:
        names = (found.title, view.other.title)
        parts = difference_table(record, view.other.record, names, by=view.by)
        return f"{names[0]} minus {names[1]}", [*found.facts[:1], *view.other.facts[:1]], parts
    if view.by is not None:
        return found.title, found.facts, shares_table(record, view.by)
    if view.scores:
        tables = score_tables(record)
        if tables is None:
            raise no_scores(found)
        return found.title, found.facts, tables
    return found.title, found.facts, ranks_table(record)


def draw(view: View, what: What, path: Path, *, overwrite: bool = False) -> None:
    """Draws a picture of the view into `path`. Raises OutputError, CheckpointError."""
    canvas.check(path, overwrite=overwrite)
    if view.compare is not None:
        draw_difference(view.found, view.other, path)
    elif what == "budget":
        draw_budget(view.curves, path)
    elif what == "training":
        draw_training(view.curves, path)
    elif what == "scores":
        draw_scores(view.found, path)
    else:
        draw_map(view.found, path)
