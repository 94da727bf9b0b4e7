"""What ``dora train --dry-run`` prints: the resolved recipe, the run in steps, and the parameter budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from dora_cli.wording import plural

EMERGES = "what the run comes to"
"""How much is left of a method without a budget."""


class DryRunLike(Protocol):
    """What is printed of a dry run; `dora_cli.assembly.dry_run.DryRun` is one."""

    @property
    def rows(self) -> Sequence[tuple[str, str]]: ...
    @property
    def schedule(self) -> Mapping[str, Any]: ...
    @property
    def phases(self) -> Sequence[tuple[str, int, int]]: ...
    @property
    def parameters(self) -> Mapping[str, int | None] | None: ...
    @property
    def out_of_reach(self) -> str | None: ...


def print_dry_run(console: Console, run: DryRunLike, recipe: str) -> None:
    """Prints `run`; `recipe` is the resolved recipe in YAML."""
    console.print(Text("Recipe", style="bold"))
    console.print(Text(recipe.rstrip()), soft_wrap=True)
    _print_rows(console, "Run", run.rows)
    if rows := _schedule_rows(run.schedule, run.phases):
        _print_rows(console, "Schedule", rows)
    if run.parameters is not None:
        _print_rows(console, "Parameters", _parameter_rows(run.parameters, run.schedule.get("unit", "components")))
    if run.out_of_reach is not None:
        console.print()
        console.print(
            Text(
                f"The number of components and the parameter budget need the model's configuration. {run.out_of_reach}"
            ),
            soft_wrap=True,
        )


def _schedule_rows(schedule: Mapping[str, Any], phases: Sequence[tuple[str, int, int]]) -> list[tuple[str, str]]:
    rows = [(name, f"steps {first:,} to {last:,} ({plural(last - first + 1, 'step')})") for name, first, last in phases]
    if schedule.get("links"):
        if schedule.get("link"):  # they are too many to be phases
            rows.append((f"{schedule['link']}s", _links(schedule)))
        elif schedule["freeze_step"]:
            rows.append(("events", "what a link has learned is tied where the next one begins"))
            rows.append(("freeze", f"after step {schedule['freeze_step']:,}: no more components come"))
    elif schedule.get("freeze_step"):
        events = f"{_spacing(schedule)}, {schedule['curve']} curve"
        if schedule["events"] is not None:
            events = f"{schedule['events']:,}, first after step {schedule['first_event']:,}, {events}"
        rows.append(("events", events))
        rows.append(("freeze", f"after step {schedule['freeze_step']:,}"))
        rows.append(("mean rank", f"{schedule['start_rank']} -> {schedule['rank']}"))
    elif schedule.get("events"):
        rows.append(
            ("events", f"{schedule['events']:,}, every {plural(schedule['interval'], 'step')}: ranks are counted")
        )
    if schedule["start_components"]:
        start, final = schedule["start_components"], schedule["final_components"]
        counts = f"{start:,}" if start == final else f"{start:,} -> {EMERGES if final is None else f'{final:,}'}"
        rows.append(("components", f"{counts} in {plural(schedule['projections'], 'projection')}"))
    return rows


def _spacing(schedule: Mapping[str, Any]) -> str:
    """How many steps lie between two events: where their number is given, these may differ by one."""
    least, most = schedule["interval"], schedule.get("longest_interval", schedule["interval"])
    return f"every {plural(least, 'step')}" if least == most else f"every {least:,} or {most:,} steps"


def _links(schedule: Mapping[str, Any]) -> str:
    """How many links follow one another, and of how many steps."""
    least, more = divmod(schedule["total_steps"], schedule["links"])
    steps = f"{least:,} or {least + 1:,} steps" if more else plural(least, "step")
    where = f", of {plural(schedule['layers'], 'random block')} each" if schedule.get("layers") else ""
    return f"{schedule['links']:,}, one after the other, {steps} each{where}"


_FINAL = {
    "components": "if ranks end up uniform; the budget counts components, not parameters",
    "parameters": "at most; the budget counts parameters",
}
"""What is said of an adapter's final size, by what its budget counts."""


def _parameter_rows(parameters: Mapping[str, int | None], unit: str) -> list[tuple[str, str]]:
    rows = []
    if parameters["projections"]:
        rows.append(("projections", f"{parameters['projections']:,}"))
        start, final = parameters["start"], parameters["final"]
        if start == final:
            rows.append(("adapter", f"{final:,}"))
        elif start is not None and final is not None and start < final:  # part is frozen, or trains after the rest
            rows.append(("adapter", f"{final:,} stored, of which {start:,} train at once"))
        else:
            rows.append(("per unit of rank", f"{parameters['per_rank']:,}"))
            rows.append(("adapter, start", f"{start:,}"))
            left = EMERGES
            if final is not None:
                left = f"{final:,} {_FINAL[unit]}"
            rows.append(("adapter, final", left))
    elif parameters["final"]:
        rows.append(("of the base", f"{parameters['final']:,} train"))
    rows.append(("head", f"{parameters['head']:,} (and any module that the checkpoint turns out to lack)"))
    return rows


def _print_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    width = max(len(label) for label, _ in rows)
    for label, value in rows:  # not a table: a line that is searched for or copied stays one line
        console.print(Text.assemble("  ", (f"{label:<{width}}", "dim"), f"  {value}"), soft_wrap=True)
