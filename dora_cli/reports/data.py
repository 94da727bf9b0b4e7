"""What ``dora data`` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dora_cli.printable import shown
from dora_cli.reports.units import number
from dora_cli.wording import plural, span

_ODD = {
    "cut": "cut",
    "empty": "with an empty text",
    "duplicates": "duplicates",
    "contradictions": "same texts, other label",
    "in_train": "in train too",
}
_CLASSES = 20
"""Classes that are listed one by one; of more the commonest."""
_CLIENTS, _CLASSES_OF_A_CLIENT = 30, 6
"""Clients that are listed, and their classes; of more the first, and the commonest."""


def print_data(console: Console, found: Mapping[str, Any]) -> None:
    """Prints what `dora_cli.assembly.look.look_at_data` gives."""
    title = f"{found['task']}, {found['model']}, data.source {found['source']}, data.max_length {found['max_length']}"
    console.print(Text(shown(title, 500), style="bold"), soft_wrap=True)
    splits = found["splits"]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [("examples", lambda split: f"{split['examples']:,}")]
    rows += [(f"tokens, {key}", partial(_tokens, key)) for key in splits["train"]["tokens"]]
    rows.append(("computed tokens real", _real))
    rows += [(what, partial(_share, key)) for key, what in _ODD.items()]
    for what, cell in rows:
        table.add_row(what, *(cell(split) for split in splits.values()))
    _baselines(table, splits)
    console.print(table)
    _print_labels(console, splits)
    if found["clients"] is not None:
        _print_clients(console, found["clients"], splits["train"])
    for note in found["notes"]:
        console.print(Text(f"note: {shown(note, 1000)}", style="yellow"), soft_wrap=True)
    for number_, example in enumerate(found["shown"], start=1):
        label = "" if example["label"] is None else f" ({shown(str(example['label']), 60)})"
        console.print()
        console.print(Text(f"Example {number_} of train{label}", style="bold"))
        for text in example["texts"]:
            console.print(Text(f"  {shown(text, 300)}"), soft_wrap=True)
        for key in ("tokens", "decoder_tokens"):
            if key in example:
                tokens = " ".join(shown(str(token), 60) for token in example[key])
                console.print(
                    Text(f"  {len(example[key])} {key.replace('_', ' ')}: {tokens}", style="dim"), soft_wrap=True
                )


def _tokens(key: str, split: Mapping[str, Any]) -> str:
    return f"{split['tokens'][key]:,}"


def _real(split: Mapping[str, Any]) -> str:
    return "" if split["real"] is None else f"{split['real']:.1%}"


def _share(key: str, split: Mapping[str, Any]) -> str:
    count = split.get(key)
    return "" if count is None else _of(count, split["examples"])


def _of(count: int, examples: int) -> str:
    return f"{count:,} ({count / examples:.1%})" if count else "0"


def _baselines(table: Table, splits: Mapping[str, Any]) -> None:
    """What saying the same of all examples gets: a model has to do better."""
    names = dict.fromkeys(name for split in splits.values() for name in split["baseline"])
    for name in names:
        cells = (split["baseline"].get(name) for split in splits.values())
        table.add_row(f"{name}, same for all", *("" if cell is None else number(cell) for cell in cells))


def _are_numbers(labels: Mapping[str, Any] | None) -> bool:
    """Whether what is said of labels is said of numbers; a class may have any name."""
    return labels is not None and isinstance(labels.get("deviation"), float)


def _commonest(labels: Mapping[str, int], most: int) -> list[str]:
    return sorted(labels, key=lambda name: -labels[name])[:most]


def _print_labels(console: Console, splits: Mapping[str, Any]) -> None:
    labels = splits["train"]["labels"]
    if labels is None:
        return
    numbers = _are_numbers(labels)
    names = list(labels) if numbers else _commonest(labels, _CLASSES)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("label")
    for name in splits:
        table.add_column(name, justify="right")
    for name in names:
        values = [(split["examples"], (split["labels"] or {}).get(name)) for split in splits.values()]
        cells = [
            "" if value is None else number(value) if numbers else _of(value, examples) for examples, value in values
        ]
        table.add_row(Text(shown(name, 60)), *cells)
    console.print()
    console.print(table)
    if not numbers and len(labels) > len(names):
        console.print(Text(f"and {len(labels) - len(names):,} labels that are rarer", style="dim"))


def _print_clients(console: Console, clients: Sequence[Mapping[str, Any]], train: Mapping[str, Any]) -> None:
    """The part of every client, and how common each class is in it; below them the whole training split."""
    labels = train["labels"]
    numbers = _are_numbers(labels)
    names = ["mean", "deviation"] if numbers else _commonest(labels or {}, _CLASSES_OF_A_CLIENT)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("client")
    for name in ("examples", *names):
        table.add_column(Text(shown(name, 40)), justify="right")
    rows = [(f"{one['client']:,}", one) for one in clients[:_CLIENTS]]
    for title, part in (*rows, ("all", train)):
        values = [part["labels"][name] for name in names]
        cells = [number(value) if numbers else _of(value, part["examples"]) for value in values]
        table.add_row(title, f"{part['examples']:,}", *cells)
    console.print()
    console.print(table)
    if left := clients[_CLIENTS:]:
        sizes = span([client["examples"] for client in left])
        said = f"and {plural(len(left), 'client')} more, with {sizes} examples each"
        console.print(Text(said, style="dim"), soft_wrap=True)
    if not numbers and labels is not None and len(labels) > len(names):
        console.print(Text(f"and {len(labels) - len(names):,} labels that are rarer", style="dim"))
