"""The page: what stands where, and writing it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from dora_cli import __version__
from dora_cli.reports.html.elements import Markup, join, tag
from dora_cli.reports.html.figures import comparison_charts, group_charts, readable
from dora_cli.reports.html.groups import Group, find_groups
from dora_cli.reports.html.rank_map import rank_map, shares
from dora_cli.reports.html.script import SCRIPT
from dora_cli.reports.html.style import STYLE
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
from dora_cli.reports.outputs import check_output_file, write_output
from dora_cli.reports.units import duration
from dora_cli.wording import plural

SUFFIXES = (".html", ".htm")
OPEN_ROWS = 12
"""A table of epochs of at most so many rows is open."""


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses a file that must not or cannot be written, before anything is read. Raises OutputError."""
    check_output_file(path, overwrite=overwrite, example="report.html", endings=SUFFIXES)


def write_report(folders: Sequence[Path], path: Path) -> tuple[Group, ...]:
    """Writes the report of the runs in `folders` and returns what it shows. Raises CheckpointError, OutputError."""
    groups = find_groups(folders)
    write_output(path, page(groups))
    return groups


def page(groups: Sequence[Group]) -> str:
    """The whole page. The same runs give the same bytes, whenever it is made."""
    title = "Report: " + ", ".join(group.name for group in groups)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # the browser itself is told to fetch nothing and to run this script alone
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light"),
        tag("meta", name="generator", content=f"dora {__version__}"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    several = len(groups) > 1
    parts = [tag("header", tag("h1", _heading(groups)), tag("p", _facts(groups), class_="note"), _contents(groups) if several else None)]
    if several:
        charts = comparison_charts(groups)
        parts.append(
            tag(
                "section",
                tag("h2", "Side by side"),
                comparison(groups),
                tag("p", _explained(groups), class_="note"),
                tag("div", *charts, class_="charts") if charts else None,
            )
        )
    parts += [_group(group, index, heading=several) for index, group in enumerate(groups, start=1)]
    parts.append(
        tag("footer", f"Made by dora {__version__} (DoRA, Dynamic Low-Rank Adaptation, arXiv 2405.17357) from the records of the runs.")
    )
    body = tag("body", tag("main", *parts), Markup(f"<script>{SCRIPT}</script>"))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _heading(groups: Sequence[Group]) -> str:
    tasks, models = (list(dict.fromkeys(found)) for found in zip(*((group.task, Path(group.model).name) for group in groups), strict=True))
    return f"{', '.join(tasks)} with {', '.join(models)}"


def _facts(groups: Sequence[Group]) -> str:
    every = [run for group in groups for run in group.runs]
    done = sum(run.finished for run in every)
    text = plural(len(every), "run") + (f" of {plural(len(groups), 'recipe')}" if len(groups) > 1 else "")
    return text + ("" if done == len(every) else f"; {plural(len(every) - done, 'run')} not finished: the page shows what there is so far")


def _contents(groups: Sequence[Group]) -> Markup:
    return tag("nav", tag("ul", *(tag("li", tag("a", group.name, href=f"#group-{index}")) for index, group in enumerate(groups, start=1))))


def _explained(groups: Sequence[Group]) -> str:
    text = "Recipe keys that differ are listed; all others are the same."
    return text + (
        " Results are mean \u00b1 standard deviation (n \u2212 1) over finished runs." if any(len(g.finished) > 1 for g in groups) else ""
    )


def _group(group: Group, index: int, *, heading: bool) -> Markup:
    parts: list[Markup | None] = [tag("h2", group.name) if heading else None, _cards(group)]
    if len(group.finished) < len(group.runs):
        parts.append(tag("p", _unfinished(group), class_="warning"))
    parts += [_titled("Results", results(group)), _pictures(group)]
    beside = [_titled("Where the budget went", _shares(group)), _titled("Size", sizes_table(group))]
    parts += [tag("div", *beside, class_="tables"), _titled("Runs", runs(group)), _epochs(group), _recipe(group)]
    found = environment(group)
    parts.append(_folded("Environment", tag("p", UNKNOWN) if found is None else found))
    return tag("section", *(part for part in parts if part is not None), id=f"group-{index}", class_="group")


def _unfinished(group: Group) -> str:
    done, every = len(group.finished), len(group.runs)
    if every == 1:
        return "This run has not finished: its log is shown as far as it goes; ranks and results are written at the end."
    if not done:
        return "None of these runs has finished: their logs are shown as far as they go; ranks and results are written at the end."
    return f"Finished: {done} of {every} runs. Results, ranks and sizes are of these alone; charts of loss and metrics show all."


def _cards(group: Group) -> Markup:
    cards = [("task", group.task), ("model", group.model), ("method", group.method), _seeds(group)]
    records = [run.metrics for run in group.finished if run.metrics]
    if records:
        name = group.result_names[0] if group.result_names else None
        if name is not None:
            rule = str(records[0]["selection"])
            cards.append((f"{readable(name)}, {rule}", mean_and_sd([record["metrics"].get(name) for record in records])))
        budget = records[0]["budget"]
        if budget["start_components"]:
            cards.append(("live components", f"{budget['start_components']:,} \u2192 {mean_of(group, 'budget', 'live_components'):,.0f}"))
            cards.append(("adapter parameters", f"{mean_of(group, 'budget', 'adapter_parameters_final'):,.0f}"))
        cards.append(("training" if len(records) == 1 else "training, mean", duration(mean_of(group, "timing", "train_seconds"))))
    return tag("dl", *(tag("div", tag("dt", label), tag("dd", value)) for label, value in cards), class_="cards")


def _seeds(group: Group) -> tuple[str, str]:
    return "seed" if len(group.runs) == 1 else "seeds", ", ".join(run.seed for run in group.runs)


def _pictures(group: Group) -> Markup:
    maps = None if group.ranks is None else rank_map(group.ranks)
    charts = group_charts(group)
    if maps is None:
        said = (
            "The rank map is written at the end of a run." if group.ranks is None else "No projection is adapted, so there is no rank map."
        )
        return tag("div", tag("p", said, class_="note"), tag("div", *charts, class_="charts"))
    return tag("div", maps, tag("div", *charts, class_="charts"), class_="pictures")


def _shares(group: Group) -> Markup | None:
    return shares(group.ranks) if group.ranks is not None and group.ranks["layers"] else None


def _epochs(group: Group) -> Markup | None:
    found = epochs(group)
    if found is None:
        return None
    several = " (mean \u00b1 standard deviation)" if found.runs > 1 else ""
    return _folded(f"Metrics per epoch{several}", found.table, opened=found.rows <= OPEN_ROWS)


def _recipe(group: Group) -> Markup:
    text = next((run.recipe for run in group.runs if run.recipe), None)
    if text is None:
        return _folded("Recipe", tag("p", UNKNOWN))
    note = tag("p", f"Of seed {group.runs[0].seed}; the runs differ in {', '.join(group.varied)}.", class_="note") if group.varied else None
    return _folded("Recipe", join(part for part in (note, tag("pre", text)) if part is not None))


def _titled(title: str, content: Markup | None) -> Markup | None:
    return None if content is None else tag("div", tag("h3", title), content)


def _folded(title: str, content: Markup, *, opened: bool = False) -> Markup:
    return tag("details", tag("summary", title), content, open=opened)
