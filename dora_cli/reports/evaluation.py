"""What ``dora eval`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dora_cli.reports.units import number


def print_evaluation(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the metrics of an evaluation beside those the run recorded for the same weights and data, where it did."""
    where = ", ".join(f"{name} ({size:,} examples)" for name, size in result["splits"].items())
    console.print(
        Text(f"{result['task']}, {result['model']}, {result['method']}: {where}", style="bold"), soft_wrap=True
    )
    console.print(
        Text(f"weights of epoch {result['epoch']}, step {result['step']}: {result['checkpoint']}", style="dim"),
        soft_wrap=True,
    )
    recorded = result.get("recorded")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    if recorded is not None:
        table.add_column("recorded by the run", justify="right")
    for name, value in result["metrics"].items():
        table.add_row(name, number(value), *(() if recorded is None else (number(recorded.get(name)),)))
    console.print(table)
    if recorded is not None:
        console.print(
            "identical to the run's record"
            if result["identical"]
            else "NOT identical to the run's record (another device or precision?)"
        )
