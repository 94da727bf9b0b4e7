"""What ``dora tasks``, ``dora models`` and ``dora methods`` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dora_cli.reports.units import size


def print_tasks(console: Console, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Prints one row per task, those of the user's own data below.

    Args:
        console: where.
        tasks: as `dora_cli.tasks.task_catalogue` gives them.
    """
    table = _table("task", "kind", "metrics")
    for split in ("train", "validation", "test"):
        table.add_column(split, justify="right")
    for task in tasks:
        if not any(task["splits"].values()):
            continue
        metrics = Text(", ".join([task["primary"], *_others(task)]))
        metrics.stylize("bold", 0, len(task["primary"]))
        table.add_row(
            task["name"],
            task["asks"],
            metrics,
            *(_sizes(task["splits"], split) for split in ("train", "validation", "test")),
        )
    console.print(table)
    console.print()
    for task in tasks:
        if not any(task["splits"].values()):
            named = ", ".join([task["primary"], *_others(task)])
            _line(console, f"{task['name']} of your own data: {task['asks']}; {named}")
    _line(console, "The first metric selects the epoch that is kept, if eval.metric names no other; all have the loss.")
    _line(console, "data.source:")
    for sources, names in _by_sources(tasks).items():
        _line(console, f"  {', '.join(names)}: {', '.join(sources)}")


def _others(task: Mapping[str, Any]) -> list[str]:
    """The metrics beside the primary one, without the loss, which all tasks have."""
    return [name for name in task["metrics"] if name != task["primary"] and not name.startswith("loss")]


def _sizes(splits: Mapping[str, int], split: str) -> str:
    """Number of examples of the split, or of each that begins with its name, one a line."""
    return "\n".join(f"{count:,}" for name, count in splits.items() if name.startswith(split) and count)


def _by_sources(tasks: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], list[str]]:
    """Names of tasks by what they share; a whole family as ``glue/*``."""
    found: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        family, slash, _ = task["name"].partition("/")
        names = found.setdefault(tuple(task["sources"]), [])
        name = f"{family}/*" if slash else family
        if name not in names:
            names.append(name)
    return found


def print_models(console: Console, catalogue: Mapping[str, Any]) -> None:
    """Prints the built-in models, the families and what others need; `catalogue` as `dora_cli.models.model_catalogue`
    gives it.
    """
    console.print(Text("Built in", style="bold"))
    table = _table("model.name", "kind")
    table.add_column("parameters", justify="right")
    table.add_column("size", justify="right")
    for model in catalogue["builtin"]:
        table.add_row(
            Text(model["name"]),
            f"{model['kind']} ({model['model_type']})",
            f"{model['parameters']:,}",
            size(model["bytes"]),
        )
    console.print(Padding(table, (0, 0, 0, 2)))
    for kind, use in (("encoder", "glue/*"), ("decoder", "glue/* and e2e"), ("encoder-decoder", "glue/* and e2e")):
        console.print()
        console.print(Text.assemble((f"{kind.capitalize()}s", "bold"), f", for {use}, whose projections are tested"))
        for family in catalogue["families"]:
            if family["kind"] == kind:
                _family(console, family)
    console.print()
    console.print(Text("Any other model needs", style="bold"))
    for need in catalogue["needs"]:
        _hanging(console, "  -", need)


def print_methods(console: Console, methods: Sequence[Mapping[str, Any]]) -> None:
    """Prints a paragraph per method; `methods` as `dora_cli.recipe.methods.method_catalogue` gives them."""
    for method in methods:
        name = Text(method["name"], style="bold")
        if method["title"] != method["name"]:
            name.append(f"  {method['title']}", style="not bold")
        console.print(name)
        for label, value in (
            ("what", method["summary"]),
            ("paper", method["paper"]),
            ("adapts", method["adapts"]),
            ("ranks", _RANKS.get(method["ranks"], "")),
            ("merged", _YES.get(method["mergeable"], "")),
            ("plain LoRA", _YES.get(method["lora"], "")),
            ("federated", "yes" if method["federated"] else ""),
            ("keys", ", ".join(method["keys"])),
        ):
            if value:
                _hanging(console, f"  {label:<11}", value, style="dim")
        console.print()
    default = next(method["name"] for method in methods if method["default"])
    _line(console, f"A recipe whose method.name is left out gets {default}. merged: fits into the base weights.")


_RANKS = {
    "pruned": "pruned while training goes on",
    "grown": "grow while training goes on",
    "fixed": "fixed",
    "none": "none",
}
_YES = {True: "yes", False: "no"}


def _family(console: Console, family: Mapping[str, Any]) -> None:
    _hanging(console, " ", ", ".join(family["model_types"]))
    for title, key in (("for example", "examples"), ("attention", "attention"), ("FFN", "ffn")):
        _hanging(console, f"    {title:<11}", ", ".join(family[key]), style="dim")


def _hanging(console: Console, label: str, text: str, *, style: str = "") -> None:
    """A label and a text, whose further lines stand below its first."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, style=style)
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text))
    console.print(grid)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
