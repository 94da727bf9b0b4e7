"""The page of an experiment: what stands where."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from dora_cli.reports.compare.lost import losses
from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import (
    SHORT,
    each_place,
    estimand,
    foreseen,
    inference,
    listed,
    remarks,
    scoring,
    sizing,
    tuning,
    typeset,
    unfinished,
    verdict,
    warnings,
)
from dora_cli.reports.html.compare.forest import forest
from dora_cli.reports.html.compare.maps import rank_maps_of, run_folder
from dora_cli.reports.html.compare.rates import explained, rate_charts
from dora_cli.reports.html.compare.scatter import best_of_chart, size_chart
from dora_cli.reports.html.compare.style import RULES
from dora_cli.reports.html.compare.tables import (
    by_seed_table,
    by_task_table,
    cost_table,
    methods_table,
    overview,
    results_table,
    runs_table,
    tasks_table,
    tests_table,
    tried_table,
    tuning_table,
)
from dora_cli.reports.html.document import arranged, document, folded, tables
from dora_cli.reports.html.elements import Markup, Table, table, tag
from dora_cli.reports.html.paths import shared, shared_yaml
from dora_cli.reports.html.rows import per_row
from dora_cli.reports.html.tables import flat
from dora_cli.reports.units import number
from dora_cli.runs.reading import read_text
from dora_cli.runs.records.comparison import ComparedTaskRecord, ComparisonOfRecord
from dora_cli.runs.run_folder import RunRecords
from dora_cli.wording import plural

NAMED = 4
"""Methods that the heading names."""
OPEN_TASKS = 2
"""Tables and rank maps of each task are open where there are at most so many."""
OPEN_CHARTS = 12
"""Charts of tuning are open where there are at most so many; of more, those of the first task."""


def experiment_page(results: Results, folder: Path) -> str:
    """The whole page. The same records give the same bytes, whenever it is made.

    Args:
        folder: the experiment's, where its runs are.

    Raises:
        CheckpointError: the record of a run that is shown is damaged.
    """
    parts = [
        _header(results),
        _verdicts(results),
        _differences(results),
        _measured(results),
        _sizes(results),
        _tuned(results),
        _maps(results, folder),
        _behind(results),
        _how(results, folder),
    ]
    return document(f"Comparison: {_heading(results)}", *(part for part in parts if part is not None), rules=RULES)


# The head -------------------------------------------------------------------------------------------------------------


def _heading(results: Results) -> str:
    names = [method.name for method in results.methods]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED + 1 else ""
    shown = names[:NAMED] if more else names
    return f"{', '.join(shown)}{more} on {', '.join(task.name for task in results.tasks)}"


def _header(results: Results) -> Markup:
    record = results.record
    odd = unfinished(record)
    return tag(
        "header",
        tag("h1", _heading(results)),
        tag("p", typeset(estimand(record)), class_="lead") if record.comparisons else None,
        tag("p", odd, class_="warning") if odd else None,
        _cards(results),
    )


def _cards(results: Results) -> Markup:
    record = results.record
    models = list(dict.fromkeys(shared(task.model) for task in results.tasks))
    cards: list[tuple[str, str]] = [
        ("tasks", ", ".join(task.name for task in results.tasks)),
        ("model" if len(models) == 1 else "models", ", ".join(models)),
        ("baseline", record.baseline),
        ("methods", f"{len(results.methods)}"),
        ("seeds", f"{len(record.seeds)}" + (f" ({listed(record.seeds)})" if record.seeds else "")),
        ("runs that measure", f"{results.made:,}"),
    ]
    if record.tuning is not None:
        cards.append(("runs that tune", f"{results.tried:,}"))
    if record.margin is not None:
        source = {"pilot": ", from the pilot", "given": ", given"}.get(record.margin_source, "")
        cards.append(("margin", f"\u00b1{number(record.margin)}{source}"))
    places = f"--medium:{per_row(len(cards), 4)};--wide:{per_row(len(cards), 8)}"
    facts = (tag("div", tag("dt", label), tag("dd", value)) for label, value in cards)
    return tag("dl", *facts, class_="cards", style=places)


# Verdicts and differences ---------------------------------------------------------------------------------------------


def _verdicts(results: Results) -> Markup | None:
    comparisons = results.record.comparisons
    if not comparisons:
        return tag("section", tag("p", "Nothing is compared: there is one method, or no baseline.", class_="note"))
    return tag(
        "section", tag("h2", "Verdict" if len(comparisons) == 1 else "Verdicts"),
        tag("ul", *map(_verdict, comparisons), class_="verdicts"),
    )  # fmt: skip


def _verdict(found: ComparisonOfRecord) -> Markup:
    open_still = found.verdict in ("undecided", "withheld")
    minded = [tag("p", typeset(warning), class_="mind") for warning in warnings(found)]
    said = remarks(found) if open_still else []
    return tag(
        "li",
        tag("span", SHORT[found.verdict], class_=f"badge {found.verdict}"),
        tag("p", typeset(verdict(found))),
        *minded,
        tag("p", typeset(" ".join(said)), class_="note") if said else None,
    )


def _differences(results: Results) -> Markup | None:
    if not results.record.comparisons:
        return None
    record = results.record
    drawn = forest(results)
    rests = " ".join(part for part in (inference(record), foreseen(record)) if part is not None)
    return tag(
        "section",
        tag("h2", "Differences"),
        drawn or tag("p", "No difference is known yet.", class_="note"),
        tag("p", typeset(rests), class_="note"),
        folded("All tests", tests_table(results).markup),
        _folded_table(f"Differences on each {each_place(record)}", by_task_table(results)),
        _folded_table("Differences of each seed", by_seed_table(results)),
    )


def _folded_table(title: str, found: Table | None) -> Markup | None:
    return None if found is None else folded(title, found.markup)


# Results, sizes, tuning -----------------------------------------------------------------------------------------------


def _named(results: Results, task: ComparedTaskRecord, title: str) -> str:
    return f"{title} on {task.name}" if len(results.tasks) > 1 else title


def _measured(results: Results) -> Markup:
    note = f"{scoring(results.record)} {sizing(results.record)}"
    seeds = plural(len(results.record.seeds), "seed")
    parts = [tables([(f"Mean \u00b1 standard deviation (n \u2212 1) over {seeds}", overview(results))])]
    parts += [tag("p", f"{line}.", class_="note") for line in losses(results)]
    folds = len(results.tasks) > OPEN_TASKS
    for task in results.tasks:
        found = tables([
            (_named(results, task, "Metrics"), results_table(results, task)),
            (_named(results, task, "Size and cost"), cost_table(results, task)),
        ])  # fmt: skip
        parts.append(folded(_named(results, task, "Metrics, size and cost"), found) if folds and found else found)
    return tag("section", tag("h2", "Results"), tag("p", note, class_="note"), *(part for part in parts if part))


def _sizes(results: Results) -> Markup | None:
    charts = [chart for task in results.tasks if (chart := size_chart(results, task)) is not None]
    if not charts:
        return None
    note = "Means over seeds; lines are one standard deviation either way. Methods of the same size stand side by side."
    return tag("section", tag("h2", "Size against score"), tag("p", note, class_="note"), arranged([], charts))


def _tuned(results: Results) -> Markup | None:
    plan = results.record.tuning
    if plan is None:
        return None
    charts = {task.name: rate_charts(results, task) for task in results.tasks}
    several = sum(map(len, charts.values())) > OPEN_CHARTS
    parts: list[Markup | None] = [tag("h2", "Tuning"), tag("p", typeset(tuning(results.record)), class_="note")]
    parts.append(explained() if any(charts.values()) else None)
    for index, task in enumerate(results.tasks):
        found = charts[task.name]
        if found and several:
            parts.append(folded(_named(results, task, "Each method"), arranged([], found), opened=index == 0))
        elif found:
            parts.append(arranged([], found))
    parts.append(tables([
        (_named(results, task, "How it was to tune"), tuning_table(results, task)) for task in results.tasks
    ]))  # fmt: skip
    best = [chart for task in results.tasks if (chart := best_of_chart(results, task)) is not None]
    if best:
        note = "Expected held-out score of the best of so many values, drawn from the grid."
        parts += [tag("h3", "With fewer values"), tag("p", note, class_="note"), arranged([], best)]
    return tag("section", *(part for part in parts if part is not None))


def _maps(results: Results, folder: Path) -> Markup | None:
    parts: list[Markup] = []
    for task in results.tasks:
        found = rank_maps_of(results, task, folder)
        if found.pictures and len(results.tasks) > OPEN_TASKS:
            parts.append(folded(task.name, arranged(found.pictures, []), opened=task is results.tasks[0]))
        elif found.pictures:
            parts += [tag("h3", task.name, class_="taskname")] if len(results.tasks) > 1 else []
            parts.append(arranged(found.pictures, []))
        if found.uniform:
            where = f"{task.name}: " if len(results.tasks) > 1 else ""
            parts.append(tag("p", f"{where}{'; '.join(found.uniform)}.", class_="note"))
    return tag("section", tag("h2", "Where the ranks are"), *parts) if parts else None


# What is behind it ----------------------------------------------------------------------------------------------------


def _behind(results: Results) -> Markup:
    record = results.record
    what = tables([("Methods", methods_table(results)), ("Tasks", tasks_table(results))])

    def each(title: str, make: Callable[[Results, ComparedTaskRecord], Table | None]) -> list[Markup]:
        made = ((task, make(results, task)) for task in results.tasks)
        return [folded(_named(results, task, title), one.markup) for task, one in made if one is not None]

    notes = [tag("li", note) for note in record.notes]
    return tag(
        "section",
        tag("h2", "What is behind it"),
        tag("div", tag("h3", "Notes"), tag("ul", *notes), class_="panel") if notes else None,
        what,
        *each("Every run", runs_table),
        *each("Every tried value", tried_table),
    )


def _how(results: Results, folder: Path) -> Markup:
    record = results.record
    command = f"dora compare {shlex.quote(shared(record.experiment))} --output FOLDER"
    environment = _environment(results, folder)
    return tag(
        "section",
        tag("h2", "How to repeat it"),
        tag(
            "div",
            tag("p", "The whole experiment; the same file, version and machine make the same runs:"),
            tag("pre", command),
            tag("p", "One of its runs, from the recipe in its folder:"),
            tag("pre", "dora train RUN/recipe.yaml --output FOLDER"),
            class_="panel repeat",
        ),
        _file(folder),
        None if environment is None else folded("Environment of the first run", environment),
    )


def _file(folder: Path) -> Markup | None:
    """The experiment's own file, which its folder keeps."""
    path = RunRecords(folder).experiment
    return folded("Experiment file", tag("pre", shared_yaml(read_text(path)))) if path.is_file() else None


def _environment(results: Results, folder: Path) -> Markup | None:
    places: Sequence[Path | None] = [
        run_folder(folder, run.folder) for cell in results.record.cells for run in cell.runs
    ]
    for place in places:
        if place is not None and RunRecords(place).environment.is_file():
            known = flat(RunRecords(place).read_environment())
            return table(["", ""], [[key, value] for key, value in known.items()], words=True).markup
    return None
