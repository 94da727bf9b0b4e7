"""The tables of an experiment's page: results, cost and tuning by method, tests, and every run behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dora_cli.reports.compare.results import Cell, Results, Spread, lost_of, mean_score
from dora_cli.reports.compare.verdicts import SHORT, interval, listed, p_value, signed, typeset
from dora_cli.reports.html.axes import short
from dora_cli.reports.html.compare.rates import band_ratio
from dora_cli.reports.html.elements import Markup, Table, join, table, tag
from dora_cli.reports.html.figures import readable
from dora_cli.reports.html.paths import shared
from dora_cli.reports.html.tables import NOTHING, dashed, narrowed, value
from dora_cli.reports.units import duration, size
from dora_cli.runs.records.comparison import ComparedTaskRecord, ComparisonOfRecord, MeasuredRunRecord, TestedRecord

BEST_OF = (1, 2, 4)
"""Numbers of tried values whose expected best is a column, beside that of all."""

FLAT = "no better than saying the same of every example"
DIGITS = 6
"""Digits of a tried value, which may be taken over into a recipe."""


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Table:
    """A table in which long names may be broken into lines."""

    def narrow(cells: Sequence[object]) -> list[object]:
        return [narrowed(cell) if isinstance(cell, str) and not isinstance(cell, Markup) else cell for cell in cells]

    return table(narrow(head), map(narrow, rows))


def written(found: Spread) -> str:
    """``0.5981 ± 0.0123``, and over how many runs where some have no number."""
    sd = f" \u00b1 {value(found.sd)}" if found.sd is not None else ""
    some = f" ({found.known} of {found.of})" if 0 < found.known < found.of else ""
    return value(found.mean) + sd + some


def _mean(cell: Cell, of: Callable[[MeasuredRunRecord], float | None], show: Callable[[float], str]) -> str:
    mean = cell.over(of).mean
    return NOTHING if mean is None else dashed(show(mean))


def _count(mean: float) -> str:
    return f"{mean:,.0f}"


def _bytes(mean: float) -> str:
    return size(round(mean))


def overview(results: Results) -> Table:
    """A row for each method, a column for each task: what a paper's table has; without differences where these are
    means over several of the methods.
    """
    scores = (f"{task.name}: {readable(task.metric)}" for task in results.tasks)
    head: list[object] = ["method", *scores, "stored parameters"]
    compared = bool(results.record.comparisons) and not results.record.pool
    head += ["difference", "verdict"] if compared else []
    rows = []
    for of in results.rows:
        method, found = of.method, of.comparison
        stored = results.over(method, lambda run: run.stored_parameters)
        row: list[object] = [of.name, *(_marked(cell) for cell in results.of_method(method))]
        row.append(NOTHING if stored is None else _count(stored))
        if compared and found is not None:
            row += [_sign(signed(found.mean)), SHORT[found.verdict]]
        elif compared:
            row += [NOTHING, "baseline" if method.baseline else NOTHING]
        rows.append(row)
    return _with_note(_table(head, rows), [cell for method in results.methods for cell in results.of_method(method)])


def _marked(cell: Cell) -> Markup:
    """A mean; one that is no better than saying the same of every example is marked."""
    if not cell.flat:
        return tag("span", written(cell.score))
    return tag("span", written(cell.score), " \u2021", class_="flat", title=FLAT)


def _with_note(made: Table, cells: Sequence[Cell]) -> Table:
    if not any(cell.flat for cell in cells):
        return made
    return Table(join([made.markup, tag("p", f"\u2021 {FLAT[0].upper()}{FLAT[1:]}.", class_="note")]), made.need)


def results_table(results: Results, task: ComparedTaskRecord) -> Table:
    """What was measured on a task; a mean no better than saying the same of every example is marked."""
    cells = [results.cell(task, method) for method in results.methods]
    others = list(dict.fromkeys(name for cell in cells for name in cell.metrics))
    on_dev = any(run.best_on_dev is not None for cell in cells for run in cell.runs)
    less = ", less is better" if task.lower_is_better else ""
    head: list[object] = [
        "method",
        f"{readable(task.metric)}: mean \u00b1 sd{less}",
        *(f"{readable(name)}: mean \u00b1 sd" for name in others),
    ]
    head += ["held out, chosen"] if results.record.tuning is not None else []
    head += ["best epoch, selected on dev"] if on_dev else []
    head += ["same for all"] if task.majority is not None else []
    head += ["collapsed runs"]
    rows = []
    for cell in cells:
        metrics, held_out = cell.metrics, cell.held_out
        row: list[object] = [cell.method.name, tag("b", _marked(cell))]
        row += [written(metrics[name]) if name in metrics else NOTHING for name in others]
        row += [NOTHING if held_out is None else written(held_out)] if results.record.tuning is not None else []
        row += [written(cell.over(lambda run: run.best_on_dev))] if on_dev else []
        row += [value(task.majority)] if task.majority is not None else []
        rows.append([*row, f"{cell.measured}"])
    return _with_note(_table(head, rows), cells)


def cost_table(results: Results, task: ComparedTaskRecord) -> Table:
    """What a finished adapter stores and what a run takes, means over runs."""
    head = [
        "method",
        "stored parameters",
        "of its baseline\u2019s",
        "most trained at once",
        "adapter file",
        "one run",
        "peak memory",
    ]
    rows = []
    for of in results.rows:
        method = of.method
        cell = results.cell(task, method)
        ratios = ", ".join(f"{ratio:.3f} \u00d7" for ratio in results.size_ratios(of))
        rows.append([
            of.name,
            _mean(cell, lambda run: run.stored_parameters, _count),
            ratios or NOTHING,
            _mean(cell, lambda run: run.most_trained, _count),
            _mean(cell, lambda run: run.adapter_bytes, _bytes),
            _mean(cell, lambda run: run.seconds, duration),
            _mean(cell, lambda run: run.peak_memory_bytes, _bytes),
        ])  # fmt: skip
    return _table(head, rows)


def tuning_table(results: Results, task: ComparedTaskRecord) -> Table | None:
    """How hard it was to choose the tuned key; None where nothing was tuned."""
    plan = results.record.tuning
    tuned = {
        method.name: record.tuned
        for method in results.methods
        if (record := results.cell(task, method).record) is not None and record.tuned is not None
    }
    if plan is None or not tuned:
        return None
    lost = {method.name: results.cell(task, method).tuned for method in results.methods}
    most = max(len(each.expected_best) for each in tuned.values())
    counts = [count for count in BEST_OF if count < most] + ([most] if most else [])
    key = plan.key.rpartition(".")[2].replace("_", " ")
    head = [
        "method", key, "inside the grid", "within one error", "as a ratio", "collapsed", "diverged",
        *(f"expected best of {count}" for count in counts),
    ]  # fmt: skip
    rows = []
    for name, each in tuned.items():
        ratio = band_ratio(each)
        band = NOTHING if each.band is None else f"{short(each.band[0])} to {short(each.band[1])}"
        best = each.expected_best
        rows.append([
            name,
            short(each.chosen, DIGITS),
            "yes" if each.interior else tag("span", "no", class_="flat"),
            band,
            NOTHING if ratio is None else f"{ratio:.2f} \u00d7",
            f"{100 * each.collapsed:.0f} %",
            NOTHING if lost[name].diverged is None else f"{lost[name].diverged} of {lost[name].runs}",
            *(value(best[count - 1] if count <= len(best) else None) for count in counts),
        ])  # fmt: skip
    return _table(head, rows)


# Tests ----------------------------------------------------------------------------------------------------------------


def tests_table(results: Results) -> Table:
    """Every number of every comparison; its sizes too where these stand beside no method."""
    head = [
        "method", "baseline", "seeds", "difference", "sd", "95 % interval", "bootstrap-t", "p", "adjusted p",
        "p, equivalence", "p, non-inferiority", "margin", "found with 80 % power", "power of equivalence",
        "seeds needed", "verdict",
    ]  # fmt: skip
    rows = [_tests(found) for found in results.record.comparisons]
    if results.record.pool:
        head.append("parameters, of its baseline\u2019s")
        for row, found in zip(rows, results.record.comparisons, strict=True):
            row.append(NOTHING if found.size_ratio is None else f"{found.size_ratio:.3f} \u00d7")
    return _table(head, rows)


def _tests(found: ComparisonOfRecord) -> list[object]:
    power = found.power_equivalent
    ends = None if found.bootstrap is None else (signed(end) for end in found.bootstrap)
    return [
        found.method,
        found.baseline,
        f"{found.seeds}" + (f" (without {listed(found.dropped)})" if found.dropped else ""),
        _sign(signed(found.mean)),
        value(found.sd),
        _sign(interval(found)),
        NOTHING if ends is None else _sign(" to ".join(ends)),
        _sign(p_value(found.p)),
        _sign(p_value(found.p_holm)),
        _sign(p_value(found.p_equivalent)),
        _sign(p_value(found.p_non_inferior)),
        value(found.margin),
        value(found.detectable),
        NOTHING if power is None else f"{100 * power:.0f} %",
        NOTHING if found.seeds_needed is None else f"{found.seeds_needed:,}",
        SHORT[found.verdict],
    ]


def by_task_table(results: Results) -> Table | None:
    """The differences on each task and pooled value alone; None where there is one of them."""
    head = ["method", "baseline", "task", "seeds", "difference", "sd", "95 % interval", "p", "adjusted p"]
    rows = [
        [
            found.method,
            found.baseline,
            one.name,
            f"{one.seeds}",
            *_numbers(one),
            _sign(p_value(one.p_holm)),
        ]
        for found in results.record.comparisons
        for one in found.by_task
    ]
    return _table(head, rows) if results.in_parts else None


def _numbers(tested: TestedRecord) -> list[str]:
    return [
        _sign(signed(tested.mean)),
        value(tested.sd),
        _sign(interval(tested)),
        _sign(p_value(tested.p)),
    ]


def by_seed_table(results: Results) -> Table | None:
    """The differences behind the means: a row for each seed, a column for each comparison."""
    comparisons = [found for found in results.record.comparisons if found.differences]
    seeds = sorted({seed for found in comparisons for seed in found.of_seeds})
    if not seeds:
        return None
    known = [dict(zip(found.of_seeds, found.differences, strict=False)) for found in comparisons]
    head = ["seed", *(f"{found.method} \u2212 {found.baseline}" for found in comparisons)]
    return _table(head, [[f"{seed}", *(_sign(signed(each.get(seed))) for each in known)] for seed in seeds])


def _sign(text: str) -> str:
    return typeset(dashed(text))


# What was compared, and every run -------------------------------------------------------------------------------------


def _texts(made: Table) -> Table:
    """With words, which begin at the left."""
    return Table(tag("div", made.markup, class_="texts"), made.need)


def methods_table(results: Results) -> Table:
    """What the methods are."""
    head = ["method", "entry", "method.name", "swept", "size", "baseline"]
    matched = results.record.match == "stored-parameters"
    rows = []
    for method in results.methods:
        swept = ", ".join(f"{key} {found}" for key, found in method.swept.items())
        own = "its own" if matched else NOTHING
        size_of = own if method.matched_to is None else f"matched to {method.matched_to}"
        facts = (method.entry, method.method, swept or NOTHING, size_of, "yes" if method.baseline else "")
        rows.append([method.name, *facts])
    return _texts(_table(head, rows))


def tasks_table(results: Results) -> Table:
    """What they were compared on."""
    head = ["name", "task", "model", "metric", "better is", "same for all", "recipe"]
    rows = [
        [task.name, task.task, shared(task.model), readable(task.metric),
         "lower" if task.lower_is_better else "higher", value(task.majority), shared(task.recipe)]
        for task in results.tasks
    ]  # fmt: skip
    return _texts(_table(head, rows))


def runs_table(results: Results, task: ComparedTaskRecord) -> Table:
    """Every run that measures on a task."""
    cells = [results.cell(task, method) for method in results.methods]
    head = [
        "method", "seed", "outcome", readable(task.metric), "best epoch on dev", "stored parameters",
        "most trained", "seconds", "memory", "folder",
    ]  # fmt: skip
    return _table(head, [_run(cell, run) for cell in cells for run in cell.runs])


def _run(cell: Cell, run: MeasuredRunRecord) -> Sequence[object]:
    outcome = run.outcome + (", collapsed" if run.collapsed and run.outcome != "diverged" else "")
    return [
        cell.method.name,
        f"{run.seed}",
        outcome if run.outcome == "finished" and not run.collapsed else tag("span", outcome, class_="flat"),
        value(run.score),
        value(run.best_on_dev),
        NOTHING if run.stored_parameters is None else f"{run.stored_parameters:,}",
        NOTHING if run.most_trained is None else f"{run.most_trained:,}",
        dashed(duration(run.seconds)),
        dashed(size(run.peak_memory_bytes)),
        _folder(run.folder),
    ]


def _folder(place: str | None) -> object:
    return NOTHING if place is None else tag("span", _broken(place), class_="long place")


def tried_table(results: Results, task: ComparedTaskRecord) -> Table | None:
    """Every tried value of the tuned key on a task; None where nothing was tuned."""
    cells = [results.cell(task, method) for method in results.methods]
    rows = [
        [
            cell.method.name,
            short(one.value, DIGITS) + (" (chosen)" if one.value == cell.record.tuned.chosen else ""),
            value(mean_score(one)),
            ", ".join(map(value, one.scores)),
            listed(one.seeds),
            f"{lost_of(one)}",
            "yes" if one.added else "",
            _folders(one.runs),
        ]
        for cell in cells
        if cell.record is not None and cell.record.tuned is not None
        for one in cell.record.tuned.tried
    ]
    head = ["method", "value", "mean", "each seed", "seeds", "collapsed", "added", "folders"]
    return _table(head, rows) if rows else None


def _folders(runs: Sequence[str]) -> Markup:
    if not runs:
        return Markup(NOTHING)
    return tag("span", join(map(_broken, runs), Markup("<br>")), class_="long place")


def _broken(place: str) -> Markup:
    """May be broken after its slashes."""
    return join(place.split("/"), join(["/", tag("wbr")]))
