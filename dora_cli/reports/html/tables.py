"""The tables of a report: results, runs, epochs, sizes, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dora_cli.reports.classes import MATRIX, class_results
from dora_cli.reports.html.elements import Markup, Table, join, table, tag
from dora_cli.reports.html.figures import readable
from dora_cli.reports.html.groups import WITHOUT_EFFECT, Group, Run, differing
from dora_cli.reports.html.paths import shared
from dora_cli.reports.html.sizes import BYTES, model_size, sizes
from dora_cli.reports.units import duration, number, size, speed
from dora_cli.runs.records.summary import spread

NOTHING = "\u2013"
UNKNOWN = "not recorded"
LONG = 24
"""A value of more characters may be broken into lines."""


def mean_and_sd(values: Sequence[float | None]) -> str:
    """``0.5981 ± 0.0123``; without the deviation for one value."""
    found = spread(values)
    return value(found["mean"]) + (f" \u00b1 {number(found['sd'])}" if found["sd"] is not None else "")


def value(found: float | None) -> str:
    """A metric or loss as everywhere, but an undefined one as the dash of this page."""
    return dashed(number(found))


def dashed(written: str) -> str:
    """A number as `dora_cli.reports.units` writes it, but an unknown one as the dash of this page."""
    return NOTHING if written == "-" else written


def mean_of(group: Group, section: str, key: str) -> float | None:
    """The mean over the finished runs of a number of metrics.json, such as ``timing``, ``train_seconds``."""
    found = [run.metrics[section].get(key) for run in group.finished if run.metrics]
    mean: float | None = spread(found)["mean"] if found else None
    return mean


def results(group: Group) -> list[tuple[str, Table]]:
    """Tables with their titles; of several runs their mean, and each one's own.

    What evaluations between epochs measure is one table, of the selected and of the last epoch. What was measured once,
    of the outputs that the selected weights wrote at the end, is another: neither has what the other has.
    """
    if not group.finished:
        return []
    found, final = [], group.final_names
    if final:
        found.append((_written_title(group), _results(group, final, {"metrics": "score"})))
    if group.metric_names:
        title = "Between epochs" if final else "Results"
        found.append((title, _results(group, group.metric_names, {"metrics": "selected", "last": "last"})))
    for run in group.finished:
        if run.metrics and run.metrics.get("confusion"):
            of = f", seed {run.seed}" if len(group.finished) > 1 else ""
            found.append((f"Classes, selected weights{of}", _classes(run.metrics["confusion"])))
    return found


def _classes(confusion: Mapping[str, Any]) -> Table:
    """A row for each class, and of few classes how many of its rows were taken for which."""
    found = list(class_results(confusion))
    matrix = len(found) <= MATRIX
    names = [f"as {one.label}" for one in found] if matrix else ["mostly taken for"]
    rows = []
    for one, counts in zip(found, confusion["counts"], strict=True):
        wrong = NOTHING if one.taken_for is None else f"{one.taken_for[0]} ({one.taken_for[1]:,})"
        cells = [f"{count:,}" for count in counts] if matrix else [wrong]
        rows.append([one.label, f"{one.examples:,}", *map(value, (one.precision, one.recall, one.f1)), *cells])
    return table(["class", "examples", "precision", "recall", "F1", *names], rows)


def _written_title(group: Group) -> str:
    """Title of the table of final outputs: which split they are of, and how they were written."""
    split, beams = group.of("decode.split"), group.of("decode.beams")
    facts = [f"{split} split"] if split != "?" else []
    if beams.isdigit():
        facts.append("greedy" if beams == "1" else f"{beams} beams")
    return "Final outputs" + (f": {', '.join(facts)}" if facts else "")


def _results(group: Group, names: Sequence[str], kinds: Mapping[str, str]) -> Table:
    """A row for each metric, a column for each kind of `Run.result`; of several runs then the first kind of each;
    and what saying the same of all examples gets, where that means something.
    """
    several, first = len(group.finished) > 1, next(iter(kinds))
    head = ["metric", *(f"{label}: mean \u00b1 sd" if several else label for label in kinds.values())]
    if several:
        head += [f"seed {run.seed}" for run in group.finished]
    baselines = [found for run in group.finished if run.metrics and (found := run.metrics.get("baseline"))]
    constant: Mapping[str, float | None] = baselines[0]["metrics"] if baselines else {}
    known = [name for name in names if name in constant]
    if known:
        head.append("same for all")
    rows = []
    for name in names:
        cells = [mean_and_sd([run.result(name, kind) for run in group.finished]) for kind in kinds]
        own = [value(run.result(name, first)) for run in group.finished] if several else []
        same = [value(constant.get(name))] if known else []
        rows.append([readable(name), tag("b", cells[0]), *cells[1:], *own, *same])
    return table(head, rows)


def runs(group: Group) -> Table:
    """One row for each run: how far it came, what was selected, what it took."""
    head = ["run", "seed", "state", "selected epoch", "live components", "training", "steps/s", "peak memory"]
    return table(head, [_run(run) for run in group.runs])


def _run(run: Run) -> list[object]:
    record = run.metrics
    if record is None:
        live = next((entry["live"] for entry in reversed(run.curves.log) if entry.get("type") == "train"), None)
        components = NOTHING if live is None else f"{live:,}"
        return [run.name, run.seed, state(run), NOTHING, components, NOTHING, NOTHING, NOTHING]
    epoch, timing = record["best_epoch"], record["timing"]
    return [
        run.name,
        run.seed,
        state(run),
        NOTHING if epoch is None else f"{epoch}",
        f"{record['budget']['live_components']:,}",
        dashed(duration(timing["train_seconds"])),
        dashed(speed(timing["steps_per_second"])),
        dashed(size(timing["peak_memory_bytes"])),
    ]


def state(run: Run) -> str:
    """``finished, 180 steps`` or how far an unfinished run has come."""
    if run.finished:
        return f"finished, {run.steps:,} steps"
    if not run.steps:
        return "not finished: no step is logged yet"
    return f"not finished: step {run.steps:,}, {run.phases[-1][0]}"


@dataclass(frozen=True)
class Epochs:
    """Loss and metrics after each epoch: how many rows, and of how many runs they are the mean."""

    table: Table
    rows: int
    runs: int


def epochs(group: Group) -> Epochs | None:
    """The epochs of the finished runs, or of all that have come to an evaluation where none has finished; None where
    there is none.
    """
    pool = [run for run in (group.finished or group.runs) if run.evaluations]
    names = group.metric_names
    numbers = sorted({entry["epoch"] for run in pool for entry in run.evaluations})
    if not numbers:
        return None
    several = len(pool) > 1
    head = ["epoch", "step", "phase", *(["runs"] if several else []), "training loss", *map(readable, names)]
    rows = []
    for epoch in numbers:
        found = [entry for run in pool for entry in run.evaluations if entry["epoch"] == epoch]
        selected = not several and pool[0].metrics is not None and pool[0].metrics["best_epoch"] == epoch
        row: list[object] = [
            tag("b", f"{epoch} (selected)") if selected else f"{epoch}",
            f"{found[0]['step']:,}",
            found[0]["phase"],
        ]
        if several:
            row.append(f"{len(found)}")
        row.append(mean_and_sd([entry.get("train_loss") for entry in found]))
        rows.append([*row, *(mean_and_sd([entry["metrics"].get(name) for entry in found]) for name in names)])
    return Epochs(table(head, rows), len(rows), len(pool))


def sizes_table(group: Group) -> Table | None:
    """What trains, beside full fine-tuning and LoRA of the same rank; the means of several runs."""
    found = [
        sizes(run.metrics, run.curves.ranks, run.environment)
        for run in group.finished
        if run.metrics and run.curves.ranks
    ]
    if not found:
        return None
    base = model_size(group.finished[0].environment)
    whole = base["parameters"]
    rows = []
    for same in zip(*found, strict=True):
        one, adapter, trained = (
            same[0],
            spread([each.adapter for each in same])["mean"],
            spread([each.trained for each in same])["mean"],
        )
        row = [
            one.name,
            NOTHING if adapter is None else f"{adapter:,.0f}",
            UNKNOWN if trained is None else f"{trained:,.0f}",
        ]
        row.append(NOTHING if trained is None else size(round(trained * BYTES)))
        if whole:
            row.append(NOTHING if trained is None else f"{100 * trained / whole:.2f} %")
        rows.append([tag("b", cell) for cell in row] if one.own else row)
    head = ["", "adapter parameters", "trained in all", "as float32", *(["of the model"] if whole else [])]
    notes = ["In all: with the head and, in DoRA, one gate for each component."]
    if whole is None:
        notes.append("The run was made by a version that did not record the size of the base model.")
    elif base["bytes"] is not None:
        notes.append(f"The base model: {whole:,} parameters, {size(base['bytes'])} as loaded.")
    if len(found) > 1:
        notes.append("Means over the finished runs.")
    made = table(head, rows)
    return Table(join([made.markup, tag("p", " ".join(notes), class_="note")]), made.need)


def environment(group: Group) -> Markup | None:
    """environment.json, each value once; where runs differ, each run's own."""
    known = [(run, flat(run.environment)) for run in group.runs if run.environment is not None]
    if not known:
        return None
    varied = set(differing([found for _, found in known]))
    rows = []
    for key in dict.fromkeys(key for _, found in known for key in found):
        if key in varied:
            cell: object = join((f"seed {run.seed}: {found.get(key, NOTHING)}" for run, found in known), Markup("<br>"))
        else:
            cell = known[0][1][key]
        rows.append([key, cell])
    return table(["", ""], rows, words=True).markup


def flat(content: Mapping[str, Any] | None, prefix: str = "") -> dict[str, str]:
    """Nested objects as ``data.train.examples``; a value that is no number or text as JSON would not be worth more."""
    found: dict[str, str] = {}
    for key, value in (content or {}).items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and prefix.count(".") < 4:
            found.update(flat(value, f"{name}."))
        elif name != "schema_version":
            found[name] = NOTHING if value is None else f"{value:,}" if type(value) is int else shared(str(value))
    return found


def comparison(groups: Sequence[Group]) -> Markup:
    """Groups of one task side by side: what came out, where their recipes differ, what it took."""
    rows: list[list[object]] = []

    def add(label: str, cells: Sequence[str], *, always: bool = True, bold: bool = False) -> None:
        if always or len(set(cells)) > 1:
            rows.append([label, *(tag("b", cell) if bold else narrowed(cell) for cell in cells)])

    for name in dict.fromkeys(name for group in groups for name in group.final_names):
        add(f"{readable(name)}, final outputs", [_result(group, name, "metrics") for group in groups], bold=True)
    for name in dict.fromkeys(name for group in groups for name in group.metric_names):
        selected, last = ([_result(group, name, kind) for group in groups] for kind in ("metrics", "last"))
        if selected == last:
            add(f"{readable(name)}, selected and last", selected, bold=True)
        else:
            add(f"{readable(name)}, selected", selected, bold=True)
            add(f"{readable(name)}, last", last)
    add("model", [group.model for group in groups], always=False)
    add("method", [group.method for group in groups], always=False)
    for key in _keys_that_differ(groups):
        add(key, [shared(group.runs[0].settings.get(key, NOTHING)) for group in groups])
    add("finished runs", [f"{len(group.finished)} of {len(group.runs)}" for group in groups])
    for label, section, key in (
        ("live components", "budget", "live_components"),
        ("adapter parameters", "budget", "adapter_parameters_final"),
        ("trained in all", "budget", "trainable_parameters_final"),
    ):
        add(label, [_count(mean_of(group, section, key)) for group in groups])
    add("training", [dashed(duration(mean_of(group, "timing", "train_seconds"))) for group in groups])
    add("steps/s", [dashed(speed(mean_of(group, "timing", "steps_per_second"))) for group in groups])
    memory = [mean_of(group, "timing", "peak_memory_bytes") for group in groups]
    add("peak memory", [dashed(size(None if value is None else round(value))) for value in memory])
    return table(["", *(narrowed(group.name) for group in groups)], rows).markup


def narrowed(cell: str) -> object:
    """A long value may be broken into lines anywhere."""
    return tag("span", cell, class_="long") if len(cell) > LONG else cell


def _keys_that_differ(groups: Sequence[Group]) -> list[str]:
    """Keys whose values differ among the recipes that have them: those of one method alone follow from the method."""
    apart = {"task", "model.name", "method.name"} | WITHOUT_EFFECT
    keys = [key for key in differing([group.runs[0].settings for group in groups]) if key not in apart]
    values = {key: {found[key] for group in groups if key in (found := group.runs[0].settings)} for key in keys}
    return [key for key in keys if len(values[key]) > 1]


def _result(group: Group, name: str, kind: str) -> str:
    return mean_and_sd([run.result(name, kind) for run in group.finished])


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
