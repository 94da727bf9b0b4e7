"""The results of an experiment as Markdown tables, to be pasted into a paper: with their caption, which says what they
rest on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from dora_cli.reports.compare.grown import growths
from dora_cli.reports.compare.lost import losses
from dora_cli.reports.compare.results import Cell, Results, Row, Spread
from dora_cli.reports.compare.verdicts import (
    SHORT,
    each_place,
    estimand,
    inference,
    interval,
    listed,
    p_value,
    scoring,
    signed,
    sizing,
    tuning,
    typeset,
    unfinished,
    verdict,
    warnings,
)
from dora_cli.reports.units import number
from dora_cli.runs.records.comparison import ComparisonOfRecord, ComparisonRecord
from dora_cli.wording import plural

NOTHING = "\u2013"
FEWER, FLAT = "\u2020", "\u2021"
"""Marks: of a mean over fewer runs than there are seeds, and of one that is no better than the majority class."""
TEXTS = ("method", "baseline", "task", "verdict")
"""Columns that hold no numbers."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def markdown(results: Results) -> str:
    """The tables, each with its caption: all that was compared, with the differences or, where keys are pooled, before
    them; then each task and pooled value alone; then verdicts and notes.
    """
    record = results.record
    tables = [(_caption(results), [_table(*_main(results)), *_footnotes(results)])]
    if record.pool and record.comparisons:
        tables.append((" ".join([estimand(record), inference(record)]), [_table(*_pooled(results))]))
    if results.in_parts:
        tables.append((_of_parts(record), [_table(*_by_task(results))]))
    parts = []
    for number_of_table, (caption, content) in enumerate(tables, 1):
        parts += [f"**Table {number_of_table}.** {escaped(typeset(caption))}", *content]
    if record.comparisons:
        parts.append("\n".join(f"- {escaped(typeset(_said(found)))}" for found in record.comparisons))
    if record.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in record.notes))
    return "\n\n".join(parts) + "\n"


def _of_parts(record: ComparisonRecord) -> str:
    each = each_place(record)
    over = f"every {each}" if record.pool else "the tasks"
    return (
        f"The same differences on each {each} alone (secondary): mean paired difference over seeds, with its 95 % "
        f"interval; p by paired t, adjusted by Holm over {over} of each comparison."
    )


def _said(found: ComparisonOfRecord) -> str:
    return " ".join([verdict(found), *warnings(found)])


def escaped(text: str) -> str:
    """`text` on one line, in which Markdown finds nothing to obey, and HTML neither."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are escaped here."""
    rules = (":---" if title in TEXTS else "---:" for title in head)
    lines = ["| " + " | ".join(map(escaped, head)) + " |", "|" + "|".join(rules) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(escaped, row)) + " |" for row in rows)])


def _caption(results: Results) -> str:
    record = results.record
    sentences = [
        f"Mean \u00b1 standard deviation (n \u2212 1) over {plural(len(record.seeds), 'seed')}"
        + (f" ({listed(record.seeds)})." if record.seeds else "."),
        scoring(record),
        *([] if record.pool else [estimand(record), inference(record)]),  # else they stand over the differences
        tuning(record),
        sizing(record),
        "Parameters: what the finished adapter stores beside the head, mean over runs and tasks.",
    ]
    same = [f"{task.name} {number(task.majority)}" for task in results.tasks if task.majority is not None]
    if same:
        sentences.append(f"Saying the same of every example scores: {', '.join(same)}.")
    if odd := unfinished(record):
        sentences.append(odd)
    return " ".join(sentences)


def _main(results: Results) -> tuple[list[str], list[list[str]]]:
    scores = [
        f"{task.name} ({task.metric.replace('_', ' ')}{', less is better' if task.lower_is_better else ''})"
        for task in results.tasks
    ]
    tested = [] if results.record.pool else list(_tested(results))
    head = ["method", *scores, "parameters", *tested, *(["verdict"] if tested else [])]
    return head, [_row(results, row) for row in results.rows]


def _row(results: Results, of: Row) -> list[str]:
    method, found = of.method, of.comparison
    stored = results.over(method, lambda run: run.stored_parameters)
    row = [
        of.name,
        *(_score(cell.score) + _marks(cell) for cell in results.of_method(method)),
        NOTHING if stored is None else f"{stored:,.0f}",
    ]
    tested = _tested(results)
    if not tested or results.record.pool:
        return row
    if found is None:
        return [*row, *[NOTHING] * len(tested), "baseline" if method.baseline else NOTHING]
    return [*row, *_numbers(results, found)]


def _pooled(results: Results) -> tuple[list[str], list[list[str]]]:
    """The differences, where what is compared is a mean over several of the methods."""
    head = ["method", "baseline", "seeds", *_tested(results), "verdict"]
    found = results.record.comparisons
    return head, [[one.method, one.baseline, f"{one.seeds}", *_numbers(results, one)] for one in found]


def _numbers(results: Results, found: ComparisonOfRecord) -> list[str]:
    return [*(_dashed(show(found)) for show in _tested(results).values()), SHORT[found.verdict]]


def _tested(results: Results) -> Mapping[str, Callable[[ComparisonOfRecord], str]]:
    """Columns of numbers about a comparison; none where nothing is compared."""
    if not results.record.comparisons:
        return {}
    columns: dict[str, Callable[[ComparisonOfRecord], str]] = {
        "difference": lambda found: signed(found.mean),
        "95 % interval": interval,
        "adjusted p": lambda found: p_value(found.p_holm),
    }
    if results.record.margin is not None:
        columns["adjusted p (equivalence)"] = lambda found: p_value(found.p_equivalent)
    return columns


def _by_task(results: Results) -> tuple[list[str], list[list[str]]]:
    head = ["method", "baseline", "task", "seeds", "difference", "95 % interval", "adjusted p"]
    rows = []
    for found in results.record.comparisons:
        for one in found.by_task:
            numbers = (signed(one.mean), interval(one), p_value(one.p_holm))
            rows.append([found.method, found.baseline, one.name, f"{one.seeds}", *map(_dashed, numbers)])
    return head, rows


def _score(found: Spread) -> str:
    if found.mean is None:
        return NOTHING
    return number(found.mean) + (f" \u00b1 {number(found.sd)}" if found.sd is not None else "")


def _dashed(written: str) -> str:
    return NOTHING if written == "-" else typeset(written)


def _marks(cell: Cell) -> str:
    return (FEWER if 0 < cell.score.known < cell.score.of else "") + (FLAT if cell.flat else "")


def _footnotes(results: Results) -> list[str]:
    cells = [cell for method in results.methods for cell in results.of_method(method)]
    lines = []
    few = [cell for cell in cells if 0 < cell.score.known < cell.score.of]
    if few:
        each = (f"{cell.method.name} on {cell.task.name}: {cell.score.known} of {cell.score.of} runs" for cell in few)
        lines.append(escaped(f"{FEWER} Over the runs that have a score: {'; '.join(each)}."))
    if any(cell.flat for cell in cells):
        lines.append(f"{FLAT} No better than saying the same of every example.")
    if said := [*growths(results), *losses(results)]:
        lines.append("\n".join(f"- {escaped(line)}." for line in said))
    return lines
