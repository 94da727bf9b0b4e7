"""Rounds and clients of federated runs in words: for the page, for what a run ends with, and for its lines of progress.

A round, and a client's part of the data, are what metrics.json holds of them (`runs.records.rounds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dora_cli.printable import shown
from dora_cli.reports.classes import MATRIX
from dora_cli.reports.units import number, size
from dora_cli.runs.records.rounds import mean_loss
from dora_cli.wording import plural

Round = Mapping[str, Any]
Part = Mapping[str, Any]

FAIR = "lora-fair"
"""The aggregation that corrects."""
MOST_CLASSES = 4
"""Classes that have room beside each other in a terminal."""
MOST_ROWS = 24
"""Longer tables of rounds or clients would push what follows off the screen; the page has them whole."""


@dataclass(frozen=True)
class ClientRounds:
    """What one client did over all rounds.

    Attributes:
        client: its number.
        examples: those that it holds.
        trained, left_out, failed: in how many rounds.
        loss: its last known one.
    """

    client: int
    examples: int
    trained: int
    left_out: int
    failed: int
    loss: float | None


def client_rounds(rounds: Sequence[Round]) -> list[ClientRounds]:
    """A client after the other, by their numbers."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for one in rounds:
        for client in one["clients"]:
            found.setdefault(client["client"], []).append(client)
    return [_client_rounds(found[client]) for client in sorted(found)]


def _client_rounds(entries: Sequence[Mapping[str, Any]]) -> ClientRounds:
    states = [entry["state"] for entry in entries]
    return ClientRounds(
        client=entries[-1]["client"],
        examples=entries[-1]["examples"],
        trained=states.count("trained"),
        left_out=states.count("left out"),
        failed=states.count("failed"),
        loss=next((entry["loss"] for entry in reversed(entries) if entry["loss"] is not None), None),
    )


class Balance(NamedTuple):
    """How a client's examples spread over the classes, or all clients' side by side.

    Attributes:
        head: of the columns.
        cells: by client.
    """

    head: list[str]
    cells: dict[int, list[str]]


def balance(parts: Sequence[Part], most: int = MATRIX) -> Balance:
    """A column for each class with its share, or of more than `most` classes one with the commonest; none where there
    are no classes, or nothing is known of them.
    """
    known = {part["client"]: part["labels"] for part in parts if part["labels"]}
    names = list(dict.fromkeys(name for labels in known.values() for name in labels))
    whole = {client: max(sum(labels.values()), 1) for client, labels in known.items()}
    if len(names) <= most:
        shares = {
            client: [percent(labels.get(name, 0) / whole[client]) for name in names] for client, labels in known.items()
        }
        return Balance([shown(name, 60) for name in names], shares)
    commonest = {client: max(labels, key=lambda name: labels[name]) for client, labels in known.items()}
    cells = {
        client: [f"{shown(name, 60)} ({percent(known[client][name] / whole[client])})"]
        for client, name in commonest.items()
    }
    return Balance(["commonest class"], cells)


def came(one: Round) -> int:
    """Clients whose factors the server had."""
    return sum(client["state"] == "trained" for client in one["clients"])


def absent(one: Round) -> str:
    """``failed 3, left out 1, 5-7``; empty where all came."""
    parts = []
    for state in ("failed", "left out"):
        numbers = [client["client"] for client in one["clients"] if client["state"] == state]
        if numbers:
            parts.append(f"{state} {spans(numbers)}")
    return ", ".join(parts)


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers, more than two in a row as a span: ``1, 2, 5-7``."""
    rows: list[list[int]] = []
    for one in numbers:
        if rows and rows[-1][-1] == one - 1:
            rows[-1].append(one)
        else:
            rows.append([one])
    return ", ".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def norm(value: float | None) -> str:
    """A norm with three significant digits, however small; ``-`` if unknown."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share with two significant digits, ``12 %``, ``0.34 %``; ``-`` where it is undefined."""
    if share is None or not math.isfinite(share):
        return "-"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def round_line(one: Round, rounds: int | None = None) -> str:
    """The end of a round as a line of progress. `rounds` is how many the run has."""
    losses = [
        client["loss"] for client in one["clients"] if client["state"] == "trained" and client["loss"] is not None
    ]
    spread = f" ({number(min(losses))} to {number(max(losses))})" if len(losses) > 1 else ""
    correction = f" correction {norm(one['correction'])}" if one["aggregation"] == FAIR else ""
    away = absent(one)
    return (
        f"round {one['round']}{'' if rounds is None else f'/{rounds}'} step {one['step']} "
        f"loss {number(mean_loss(one))}{spread}{correction} distance {percent(one['distance'])} "
        f"up {size(one['bytes_up'])} down {size(one['bytes_down'])} "
        f"{came(one)} of {plural(len(one['clients']), 'client')}" + (f" ({away})" if away else "")
    )


def rounds_summary(rounds: Sequence[Round]) -> str:
    """All of it as one row of the summary: ``10 with 8 clients, lora-fair, 12.0 MiB up, 12.0 MiB down``."""
    up, down = (sum(one[key] for one in rounds) for key in ("bytes_up", "bytes_down"))
    failed = sum(client.failed for client in client_rounds(rounds))
    return (
        f"{len(rounds)} with {plural(len(rounds[-1]['clients']), 'client')}, {rounds[-1]['aggregation']}, "
        f"{size(up)} up, {size(down)} down" + (f", {plural(failed, 'failure')}" if failed else "")
    )


def print_rounds(
    console: Console, rounds: Sequence[Round], parts: Sequence[Part] = (), *, primary: str | None = None
) -> None:
    """Prints the tables of rounds and clients; of too many rounds the last.

    Args:
        parts: what the clients hold, where it is known.
        primary: the metric that a round's row has; None for the first.
    """
    console.print(Text("Rounds", style="bold"))
    console.print(_rounds_table(rounds[-MOST_ROWS:], primary))
    if len(rounds) > MOST_ROWS:
        console.print(Text(f"the last {MOST_ROWS} of {len(rounds)}; dora report shows all", style="dim"))
    clients = client_rounds(rounds)
    console.print()
    console.print(Text("Clients", style="bold"))
    if len(clients) > MOST_ROWS:
        examples = [client.examples for client in clients]
        said = f"{len(clients)} clients of {min(examples):,} to {max(examples):,} examples; dora report shows each"
        console.print(Text(said, style="dim"))
        return
    console.print(_clients_table(clients, balance(parts, MOST_CLASSES)))


def _rounds_table(rounds: Sequence[Round], primary: str | None) -> Table:
    names = list(dict.fromkeys(name for one in rounds for name in one["metrics"] or ()))
    metric = primary if primary in names else next(iter(names), None)
    fair = any(one["aggregation"] == FAIR for one in rounds)
    head = ["round", *([metric] if metric else []), "train loss", *(["correction"] if fair else [])]
    table = _table(*head, "distance", "clients")
    for one in rounds:
        away = absent(one)
        table.add_row(
            str(one["round"]),
            *([number((one["metrics"] or {}).get(metric))] if metric else []),
            number(mean_loss(one)),
            *([norm(one["correction"])] if fair else []),
            percent(one["distance"]),
            f"{came(one)}" + (f", {away}" if away else ""),
        )
    return table


def _clients_table(clients: Sequence[ClientRounds], classes: Balance) -> Table:
    table = _table("client", "examples", *classes.head, "last loss", "trained", "left out", "failed")
    unknown = ["-"] * len(classes.head)
    for one in clients:
        counts = (f"{count:,}" for count in (one.trained, one.left_out, one.failed))
        shares = map(Text, classes.cells.get(one.client, unknown))
        table.add_row(str(one.client), f"{one.examples:,}", *shares, number(one.loss), *counts)
    return table


def _table(*head: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in head:
        table.add_column(Text(title), justify="right")
    return table
