"""What ``dora compare --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dora_cli.reports.units import duration
from dora_cli.wording import plural


@dataclass(frozen=True)
class PlannedCell:
    """One method on one task.

    Attributes:
        stored: parameters that its adapter will store; None where only runs show it, or no model is within reach.
        size: in words, where `stored` does not say it.
        seconds: of one run on this machine, alone.
    """

    task: str
    method: str
    tuning_runs: int
    measured_runs: int
    stored: int | None
    size: str
    seconds: float


def print_plan(
    console: Console,
    cells: Sequence[PlannedCell],
    facts: Sequence[tuple[str, str]],
    *,
    jobs: int,
    total: float,
    least: float,
) -> None:
    """Prints the cells, the count of their runs and their time.

    Args:
        facts: what else is known, ``(what, value)``.
        jobs: runs at once.
        total: seconds of all runs, one after another.
        least: seconds that they take however many are made at once.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("task")
    table.add_column("method")
    for name in ("tuning runs", "measured", "parameters", "a run"):
        table.add_column(name, justify="right")
    for cell in cells:
        table.add_row(
            Text(cell.task),
            Text(cell.method),
            f"{cell.tuning_runs:,}",
            f"{cell.measured_runs:,}",
            Text(cell.size) if cell.stored is None else f"{cell.stored:,}",
            duration(cell.seconds),
        )
    console.print(table)
    console.print()
    runs = sum(cell.tuning_runs + cell.measured_runs for cell in cells)
    rows = [
        *facts,
        ("runs", f"{runs:,}; more where a best value lies at the edge of its grid, which then grows"),
        ("time", f"about {duration(max(total / jobs, least))} with {plural(jobs, 'run')} at once"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text.assemble((f"{name:{width}}", "bold"), "  ", value))
