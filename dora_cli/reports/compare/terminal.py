"""What `dora compare` ends with: a row for each method, and a sentence for each comparison."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dora_cli.reports.compare.grown import growths
from dora_cli.reports.compare.lost import losses
from dora_cli.reports.compare.results import Cell, Results, Row, Spread
from dora_cli.reports.compare.verdicts import (
    SHORT,
    estimand,
    inference,
    interval,
    p_value,
    signed,
    unfinished,
    verdict,
    warnings,
)
from dora_cli.reports.units import duration, number
from dora_cli.runs.records.comparison import ComparedMethodRecord, ComparisonOfRecord
from dora_cli.wording import plural

STYLES = {"better": "bold green", "worse": "bold red", "equivalent": "bold", "non-inferior": "bold"}
"""Verdicts that say something; the words say it without colour."""
WIDEST = 10_000
"""Columns that any table has room in."""


def print_comparison(console: Console, record: Mapping[str, Any], folder: Path | None = None) -> None:
    """Prints what an experiment came to.

    Args:
        record: the content of comparison.json.
        folder: where it lies, for the commands that go on from here; None leaves them out.

    Raises:
        CheckpointError: the record is damaged.
    """
    results = Results.of(record)
    say = _Lines(console)
    said = [plural(len(found), word) for found, word in ((results.tasks, "task"), (results.methods, "method"))]
    say(f"{', '.join(said)}, {plural(len(results.record.seeds), 'seed')}", "bold")
    if odd := unfinished(results.record):
        say(odd, "yellow")
    console.print()
    _print_tables(console, results)
    for line in _footnotes(results):
        say(line, "dim")
    if results.record.comparisons:
        console.print()
        for found in results.record.comparisons:
            say(verdict(found), STYLES.get(found.verdict, ""))
            for warning in warnings(found):
                say(f"  {warning}", "yellow")
        console.print()
        say(estimand(results.record), "dim")
        say(inference(results.record), "dim")
    for note in results.record.notes:
        say(f"note: {note}", "yellow")
    if folder is not None:
        console.print()
        console.print(Text("Next", style="bold"))
        for command in next_commands(folder):
            console.print(Text("  " + command), soft_wrap=True)


class _Lines:
    """Prints sentences: wrapped between words in a terminal, whole in a file."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=not self._console.is_terminal)


def next_commands(folder: Path) -> list[str]:
    """The page and the table of an experiment, which go into its folder: those names are free."""
    name = shlex.quote(str(folder))
    ends = ("report.html", "table.md")
    return [f"dora report {name} --output {shlex.quote(str(folder / end))}" for end in ends]


# The table ------------------------------------------------------------------------------------------------------------


def _print_tables(console: Console, results: Results) -> None:
    """Scores and differences in one table; in two where that is too wide, or what is compared is a mean over several
    methods, and as lists where these are.

    Numbers that are broken over lines could not be read any more.
    """
    sign = "\u00b1" if console.encoding.startswith("utf") else "+/-"
    scores = {method.name: _score_row(results, method, sign) for method in results.methods}
    score_head, difference_head = _score_head(results), ["", "difference", "95 % interval", "p (Holm)", "verdict"]
    if not results.record.comparisons:
        _print_table(console, score_head, list(scores.values()))
        return
    if results.record.pool:
        _print_table(console, score_head, list(scores.values()))
        console.print()
        found = results.record.comparisons
        _print_table(console, difference_head, [[results.name_of(one), *_difference(one)] for one in found])
        return
    differences = [_difference_row(row) for row in results.rows]
    whole = _table(
        [*score_head, *difference_head[1:]],
        [
            [row.name, *scores[row.method.name][1:], *other[1:]]
            for row, other in zip(results.rows, differences, strict=True)
        ],
    )
    if _fits(console, whole):
        console.print(whole)
        return
    _print_table(console, score_head, list(scores.values()))
    console.print()
    _print_table(console, difference_head, differences)


def _print_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    made = _table(head, rows)
    if _fits(console, made):
        console.print(made)
        return
    for row in rows:
        console.print(Text(row[0], style="bold", overflow="fold"))
        for title, cell in zip(head[1:], row[1:], strict=True):
            if cell:
                _print_pair(console, title.replace("\n", ", "), cell)


def _print_pair(console: Console, title: str, cell: str) -> None:
    """On one line, or where that is too long on two: a number is not broken."""
    if cell_len(title) + cell_len(cell) + 4 <= console.width:
        console.print(Text.assemble("  ", (title, "dim"), "  ", cell))
        return
    console.print(Text(f"  {title}", style="dim", overflow="fold"))
    console.print(Text(f"    {cell}", overflow="fold"))


def _fits(console: Console, table: Table) -> bool:
    return Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum <= console.width


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in head:
        made.add_column(Text(title), justify="left" if title in ("", "verdict") else "right")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def _score_head(results: Results) -> list[str]:
    return ["", *(f"{task.name}\n{task.metric.replace('_', ' ')}" for task in results.tasks), "parameters", "one run"]


def _score_row(results: Results, method: ComparedMethodRecord, sign: str) -> list[str]:
    stored = results.over(method, lambda run: run.stored_parameters)
    return [
        method.name,
        *(score(cell.score, sign) + _marks(cell) for cell in results.of_method(method)),
        "-" if stored is None else f"{stored:,.0f}",
        duration(results.over(method, lambda run: run.seconds)),
    ]


def _difference_row(row: Row) -> list[str]:
    found = row.comparison
    if found is None:
        return [row.name, "", "", "", "baseline" if row.method.baseline else ""]
    return [row.name, *_difference(found)]


def _difference(found: ComparisonOfRecord) -> list[str]:
    return [signed(found.mean), interval(found), p_value(found.p_holm), SHORT[found.verdict]]


def score(found: Spread, sign: str) -> str:
    """``0.5981 ± 0.0123``; without the deviation for one run."""
    return number(found.mean) + (f" {sign} {number(found.sd)}" if found.sd is not None else "")


def _marks(cell: Cell) -> str:
    return ("*" if cell.score.known < cell.score.of else "") + ("!" if cell.flat else "")


def _footnotes(results: Results) -> list[str]:
    """What the marks beside scores mean, of those that are there, whose grids grew, and which methods lost runs."""
    cells: Sequence[Cell] = [cell for method in results.methods for cell in results.of_method(method)]
    lines = []
    few = [cell for cell in cells if cell.score.known < cell.score.of]
    if few:
        lines.append("* " + "; ".join(_has(cell) for cell in few))
    flat = [cell for cell in cells if cell.flat]
    if flat:
        same = dict.fromkeys(f"{cell.task.name} {number(cell.task.majority)}" for cell in flat)
        lines.append(f"! no better than saying the same of every example: {', '.join(same)}")
    return [*lines, *growths(results), *losses(results)]


def _has(cell: Cell) -> str:
    return f"{cell.method.name} on {cell.task.name}: {cell.score.known} of {plural(cell.score.of, 'run')} has a score"
