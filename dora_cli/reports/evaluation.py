"""What ``dora eval`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dora_cli.reports.classes import MATRIX, class_results
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
    if result.get("confusion") is not None:
        print_classes(console, result["confusion"])
    if recorded is not None:
        console.print(
            "identical to the run's record"
            if result["identical"]
            else "NOT identical to the run's record (another device or precision?)"
        )


def print_classes(console: Console, confusion: Mapping[str, Any]) -> None:
    """Prints a row for each class, and of few classes what each was taken for."""
    found = list(class_results(confusion))
    matrix = len(found) <= MATRIX
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("class")
    names = [one.label for one in found] if matrix else ["mostly taken for"]
    for head in ("examples", "precision", "recall", "F1", *names):
        table.add_column(Text(head), justify="right")
    for one, row in zip(found, confusion["counts"], strict=True):
        wrong = "" if one.taken_for is None else f"{one.taken_for[0]} ({one.taken_for[1]:,})"
        cells = [f"{count:,}" for count in row] if matrix else [wrong]
        measures = (number(one.precision), number(one.recall), number(one.f1))
        table.add_row(Text(one.label), f"{one.examples:,}", *measures, *map(Text, cells))
    console.print()
    console.print(table)
    if matrix:
        console.print(Text("The columns of classes count what the rows of each class were taken for.", style="dim"))
