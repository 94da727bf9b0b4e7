"""What a run ends with: its summary, where things are, and what to type next; and that of several seeds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from dora_cli.reports.rounds import rounds_summary
from dora_cli.reports.units import duration, number, size, speed
from dora_cli.runs.records.fields import Metrics
from dora_cli.runs.records.metrics import MetricsRecord, TimingRecord, validate_metrics
from dora_cli.runs.run_folder import RunRecords
from dora_cli.wording import plural

# One run --------------------------------------------------------------------------------------------------------------


def run_summary(metrics: Mapping[str, Any], *, primary: str | None = None) -> Table:
    """The summary of one run as a table of two columns.

    Args:
        metrics: the content of metrics.json.
        primary: the metric that selected the epoch, listed first; None keeps the order of the record.

    Raises:
        CheckpointError: the record is damaged.
    """
    record = validate_metrics(metrics)
    table = Table(
        box=None, show_header=False, padding=(0, 2, 0, 0), title="Summary", title_justify="left", title_style="bold"
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(record, primary):
        table.add_row(label, Text(value, style="bold" if label == "selected" else ""))
    return table


def _rows(record: MetricsRecord, primary: str | None) -> list[tuple[str, str]]:
    budget, timing = record.budget, record.timing
    rows = [("task", record.task), ("model", record.model), ("method", f"{record.method}, seed {record.seed}")]
    when = f"epoch {record.best_epoch}, {record.selection}" if record.best_epoch is not None else record.selection
    if record.averaged_steps:
        when += f", mean weights of {plural(record.averaged_steps, 'step')}"
    rows.append(("selected", f"{_metrics(record.metrics, primary)} ({when})"))
    final = f" (epoch {record.epochs[-1].epoch})" if record.epochs else ""
    rows.append(("last", f"{_metrics(record.last, primary)}{final}"))
    if budget.start_components:
        live = f"{budget.start_components:,} -> {budget.live_components:,} live"
        if budget.start_components == budget.live_components == budget.final_components:
            live = f"{budget.live_components:,}"
        rows.append(
            (
                "components",
                live
                + (
                    f", budget {budget.final_components:,}"
                    if budget.final_components not in (None, budget.live_components)
                    else ""
                ),
            )
        )
        rows.append(("adapter", plural(budget.adapter_parameters_final, "parameter")))
    if record.rounds:
        rows.append(("rounds", rounds_summary([one.model_dump() for one in record.rounds])))
    start, end = budget.trainable_parameters_start, budget.trainable_parameters_final
    rows.append(("trainable", f"{start:,} -> {end:,} parameters" if start != end else plural(end, "parameter")))
    rows.append(("time", _time(timing)))
    rows.append(("peak memory", size(timing.peak_memory_bytes)))
    return rows


def _time(timing: TimingRecord) -> str:
    """What the parts of the run took; loading data and model is none of them."""
    rates = f"{speed(timing.steps_per_second)} steps/s, {speed(timing.samples_per_second)} samples/s"
    others = (
        ("evaluation", timing.evaluation_seconds),
        ("writing outputs", timing.decoding_seconds),
        ("saving", timing.saving_seconds),
    )
    said = [f"{duration(seconds)} of {what}" for what, seconds in others if seconds is not None]
    return ", ".join([f"{duration(timing.train_seconds)} of training ({rates})", *said])


def _metrics(values: Metrics, primary: str | None) -> str:
    names = sorted(values, key=lambda name: name != primary)
    return ", ".join(f"{name} {number(values[name])}" for name in names)


def places(folder: Path) -> list[tuple[str, Path]]:
    """What is where in a run folder: ``(what, path)`` of all that is there now."""
    run = RunRecords(folder)
    known = (
        ("adapter", run.adapter),
        ("metrics", run.metrics),
        ("ranks", run.ranks),
        ("outputs", run.predictions),
        ("log", run.log),
        ("recipe", run.recipe),
    )
    return [(what, path) for what, path in known if path.exists()]


def next_commands(folder: Path) -> list[str]:
    """Commands worth typing after a run, quoted for a shell."""
    name = shlex.quote(str(folder))
    return [f"dora ranks {name}", f"dora eval --checkpoint {name}", _report_command(folder)]


def _report_command(folder: Path) -> str:
    """The page goes into the folder that it shows: that name is free, and it stays with the run."""
    return f"dora report {shlex.quote(str(folder))} --output {shlex.quote(str(folder / 'report.html'))}"


def print_run(console: Console, metrics: Mapping[str, Any], folder: Path, *, primary: str | None = None) -> None:
    """Prints the summary, where things are and what to type next.

    Paths and commands are never wrapped, so that they can be copied.
    """
    console.print(run_summary(metrics, primary=primary))
    found = places(folder)
    if found:
        _print_lines(console, "Where things are", [f"{what:<9}{path}" for what, path in found])
    _print_lines(console, "Next", next_commands(folder))


def _print_lines(console: Console, title: str, lines: Sequence[str]) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Text("  " + line), soft_wrap=True)


# Several seeds --------------------------------------------------------------------------------------------------------


def seeds_table(summary: Mapping[str, Any], *, primary: str | None = None) -> list[RenderableType]:
    """The tables of `seeds_summary`, from top to bottom: each metric's mean and deviation, then each seed's values."""
    seeds, metrics = summary["seeds"], summary["metrics"]
    names = sorted(metrics, key=lambda name: name != primary)
    title = (
        f"{summary['task']}, {summary['model']}, {summary['method']}: {plural(len(seeds), 'seed')}, "
        f"{summary['selection']}"
    )
    means = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    means.add_column("")
    for kind in ("best", "last"):
        means.add_column(f"{kind}: mean", justify="right")
        means.add_column("sd", justify="right")
    for name in names:
        cells = [number(metrics[name][kind][key]) for kind in ("best", "last") for key in ("mean", "sd")]
        means.add_row(name, *cells)
    values = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    values.add_column("seed", justify="right")
    values.add_column("epoch", justify="right")
    for name in names:
        values.add_column(f"{name}: best", justify="right")
        values.add_column("last", justify="right")
    values.add_column("adapter", justify="right")
    values.add_column("training", justify="right")
    for index, seed in enumerate(seeds):
        row = [number(metrics[name][kind]["values"][index]) for name in names for kind in ("best", "last")]
        epoch = summary["best_epochs"][index]
        adapter = summary["budget"]["adapter_parameters_final"]["values"][index]
        time = duration(summary["timing"]["train_seconds"]["values"][index])
        values.add_row(str(seed), "-" if epoch is None else str(epoch), *row, f"{adapter:,}", time)
    return [Text(title, style="bold", overflow="fold"), Text(""), means, Text(""), values]


def print_seeds(console: Console, summary: Mapping[str, Any], folder: Path, *, primary: str | None = None) -> None:
    """Prints the tables of several seeds, where their summary is and what to type next."""
    for part in seeds_table(summary, primary=primary):
        console.print(part)
    path = RunRecords(folder).summary
    if path.exists():
        _print_lines(console, "Where things are", [f"{'summary':<9}{path}", f"{'runs':<9}{folder / 'seed-*'}"])
    _print_lines(console, "Next", [f"dora ranks {shlex.quote(str(folder))}", _report_command(folder)])
