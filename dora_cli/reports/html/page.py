"""The page: what stands where, and writing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dora_cli.reports.baseline import baseline_note
from dora_cli.reports.html.document import arranged, document, folded, tables
from dora_cli.reports.html.elements import Markup, Table, join, tag
from dora_cli.reports.html.figures import APART, comparison_charts, group_charts, measured_once, readable
from dora_cli.reports.html.groups import Group, find_groups
from dora_cli.reports.html.paths import shared_yaml
from dora_cli.reports.html.rank_map import pictures, shares
from dora_cli.reports.html.rounds import rounds_and_clients
from dora_cli.reports.html.rows import per_row
from dora_cli.reports.html.tables import (
    UNKNOWN,
    comparison,
    environment,
    epochs,
    mean_and_sd,
    mean_of,
    results,
    runs,
    sizes_table,
)
from dora_cli.reports.ranks.table import keeps_ranks
from dora_cli.reports.units import duration
from dora_cli.runs.output_files import write_output
from dora_cli.wording import plural

OPEN_ROWS = 12
"""A table of epochs of at most so many rows is open."""
OPEN_GROUPS = 3
"""Sections are open where there are at most so many groups."""
BESIDE = 3
"""Results of at most so many metrics have the table of their one run beside them."""


def write_report(folders: Sequence[Path], path: Path) -> tuple[Group, ...]:
    """Writes the report of the runs in `folders` and returns what it shows. Raises CheckpointError, OutputError."""
    groups = find_groups(folders)
    write_output(path, page(groups))
    return groups


def page(groups: Sequence[Group]) -> str:
    """The whole page. The same runs give the same bytes, whenever it is made."""
    return document("Report: " + ", ".join(group.name for group in groups), *_parts(groups))


def _parts(groups: Sequence[Group]) -> list[Markup]:
    several = len(groups) > 1
    parts = [
        tag(
            "header",
            tag("h1", _heading(groups)),
            tag("p", _facts(groups), class_="note"),
            _contents(groups) if several else None,
        )
    ]
    if several:
        parts.append(_side_by_side(groups))
    return parts + [_group(group, index, of=len(groups)) for index, group in enumerate(groups, start=1)]


def _heading(groups: Sequence[Group]) -> str:
    tasks, models = (
        list(dict.fromkeys(found))
        for found in zip(*((group.task, Path(group.model).name) for group in groups), strict=True)
    )
    return f"{', '.join(tasks)} with {', '.join(models)}"


def _facts(groups: Sequence[Group]) -> str:
    every = [run for group in groups for run in group.runs]
    done = sum(run.finished for run in every)
    text = plural(len(every), "run") + (f" of {plural(len(groups), 'recipe')}" if len(groups) > 1 else "")
    return text + (
        ""
        if done == len(every)
        else f"; {plural(len(every) - done, 'run')} not finished: the page shows what there is so far"
    )


def _contents(groups: Sequence[Group]) -> Markup:
    return tag(
        "nav",
        tag(
            "ul",
            *(tag("li", tag("a", group.name, href=f"#group-{index}")) for index, group in enumerate(groups, start=1)),
        ),
    )


def _side_by_side(groups: Sequence[Group]) -> Markup:
    """Groups of one task in one table and in common charts: the metrics of different tasks have nothing to compare."""
    parts: list[Markup | None] = [tag("h2", "Side by side")]
    tasks = list(dict.fromkeys(group.task for group in groups))
    for task in tasks:
        same = [group for group in groups if group.task == task]
        note = tag("p", _explained(same), class_="note")
        parts.append(tag("div", tag("h3", task) if len(tasks) > 1 else None, comparison(same), note, class_="panel"))
        charts = comparison_charts(same)
        parts.append(arranged([], charts) if charts else None)
    return tag("section", *(part for part in parts if part is not None))


def _explained(groups: Sequence[Group]) -> str:
    text = "The only recipe of this task."
    if len(groups) > 1:
        text = "Recipe keys that differ are listed; all others are the same."
    if any(len(group.finished) > 1 for group in groups):
        text += " Results are mean \u00b1 standard deviation (n \u2212 1) over finished runs."
    if len(groups) > APART:
        text += f" Charts show at most {APART} recipes beside each other: more lines cannot be told apart."
    return text


def _group(group: Group, index: int, *, of: int) -> Markup:
    """A section about one group. Of many groups each is folded: the comparison above them is what is read first."""
    parts: list[Markup | None] = [_cards(group)]
    if len(group.finished) < len(group.runs):
        parts.append(tag("p", _unfinished(group), class_="warning"))
    parts += [tag("p", note, class_="warning") for run in group.finished if (note := baseline_note(run.metrics or {}))]
    found, every = results(group), ("Runs" if len(group.runs) > 1 else "Run", runs(group))
    beside = len(group.runs) == 1 and len(found) < 2 and len(group.metric_names) <= BESIDE
    parts += [tables([*found, *([every] if beside else [])]), _pictures(group)]
    where = "Where the budget went" if group.ranks is None or not keeps_ranks(group.ranks) else "Where the ranks are"
    parts += [tables([(where, _shares(group)), ("Size", sizes_table(group))])]
    parts += [None if beside else tables([every]), rounds_and_clients(group), _epochs(group), _recipe(group)]
    known = environment(group)
    parts.append(folded("Environment", tag("p", UNKNOWN) if known is None else known))
    content = [part for part in parts if part is not None]
    if of > OPEN_GROUPS:
        said = f"{group.method}, {_result(group)}" if group.finished else f"{group.method}, not finished"
        summary = tag("summary", group.name, tag("span", said))
        return tag("details", summary, *content, id=f"group-{index}", class_="group")
    return tag("section", tag("h2", group.name) if of > 1 else None, *content, id=f"group-{index}", class_="group")


def _result(group: Group) -> str:
    """The metric that selects, or where outputs are written at the end the first score of them."""
    name = next(iter([*group.final_names, *group.result_names]), None)
    if name is None:
        return "no metric"
    return f"{readable(name)} {mean_and_sd([run.result(name, 'metrics') for run in group.finished])}"


def _unfinished(group: Group) -> str:
    done, every = len(group.finished), len(group.runs)
    if every == 1:
        return (
            "This run has not finished: its log is shown as far as it goes; ranks and results are written at the end."
        )
    if not done:
        return (
            "None of these runs has finished: their logs are shown as far as they go; ranks and results are "
            "written at the end."
        )
    return (
        f"Finished: {done} of {every} runs. Results, ranks and sizes are of these alone; charts of loss and "
        "metrics show all."
    )


def _cards(group: Group) -> Markup:
    model = join(group.model.split("/"), join(["/", tag("wbr")]))
    cards: list[tuple[str, str]] = [("task", group.task), ("model", model), ("method", group.method), _seeds(group)]
    records = [run.metrics for run in group.finished if run.metrics]
    if records:
        name = group.result_names[0] if group.result_names else None
        if name is not None:
            rule = str(records[0]["selection"])
            cards.append(
                (f"{readable(name)}, {rule}", mean_and_sd([record["metrics"].get(name) for record in records]))
            )
        for name in group.final_names[:1]:
            scores = [record["metrics"].get(name) for record in records]
            cards.append((f"{readable(name)}, final outputs", mean_and_sd(scores)))
        budget = records[0]["budget"]
        if budget["start_components"]:
            start, live = budget["start_components"], mean_of(group, "budget", "live_components")
            if start == live == budget["final_components"]:
                cards.append(("components", f"{start:,}"))
            else:
                cards.append(("live components", f"{start:,} \u2192 {live:,.0f}"))
            cards.append(("adapter parameters", f"{mean_of(group, 'budget', 'adapter_parameters_final'):,.0f}"))
        cards.append(
            ("training" if len(records) == 1 else "training, mean", duration(mean_of(group, "timing", "train_seconds")))
        )
    places = f"--medium:{per_row(len(cards), 5)};--wide:{per_row(len(cards), 8)}"
    facts = (tag("div", tag("dt", label), tag("dd", value)) for label, value in cards)
    return tag("dl", *facts, class_="cards", style=places)


def _seeds(group: Group) -> tuple[str, str]:
    return "seed" if len(group.runs) == 1 else "seeds", ", ".join(run.seed for run in group.runs)


def _pictures(group: Group) -> Markup:
    maps = [] if group.ranks is None else pictures(group.ranks)
    charts = group_charts(group)
    notes = []
    if not maps:
        adapted = "No projection is adapted, so there is no rank map."
        notes.append(adapted if group.ranks is not None else "The rank map is written at the end of a run.")
    if measured_once(group):
        notes.append("The metrics were measured once, so they have no curves: the tables have them.")
    said = [tag("p", " ".join(notes), class_="note")] if notes else []
    return tag("div", *said, arranged(maps, charts)) if maps or charts else join(said)


def _shares(group: Group) -> Table | None:
    if group.ranks is None or not group.ranks["layers"]:
        return None
    made = shares(group.ranks)
    which = "all" if keeps_ranks(group.ranks) else "the live"
    own = any(layer.get("parameters") is not None for layer in group.ranks["layers"])
    stored = "what the adapter stores for them alone" if own else "the entries of their A and B"
    note = tag("p", f"Of {which} components; parameters are {stored}.", class_="note")
    return Table(join([made.markup, note]), made.need)


def _epochs(group: Group) -> Markup | None:
    found = epochs(group)
    if found is None:
        return None
    several = " (mean \u00b1 standard deviation)" if found.runs > 1 else ""
    return folded(f"Metrics per epoch{several}", found.table.markup, opened=found.rows <= OPEN_ROWS)


def _recipe(group: Group) -> Markup:
    text = next((run.recipe for run in group.runs if run.recipe), None)
    if text is None:
        return folded("Recipe", tag("p", UNKNOWN))
    note = (
        tag("p", f"Of seed {group.runs[0].seed}; the runs differ in {', '.join(group.varied)}.", class_="note")
        if group.varied
        else None
    )
    return folded("Recipe", join(part for part in (note, tag("pre", shared_yaml(text))) if part is not None))
