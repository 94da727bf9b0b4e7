"""Rounds and clients of federated runs on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dora_cli.reports.html.document import folded, tables
from dora_cli.reports.html.elements import Markup, Table, join, table, tag
from dora_cli.reports.html.figures import readable
from dora_cli.reports.html.groups import Group, Run
from dora_cli.reports.html.tables import NOTHING, dashed, mean_and_sd, narrowed
from dora_cli.reports.rounds import FAIR, Round, absent, balance, came, client_rounds, norm, percent, spans
from dora_cli.reports.units import number, size
from dora_cli.runs.records.rounds import mean_loss
from dora_cli.runs.records.summary import spread

OPEN_ROUNDS = 12
"""Tables of at most so many rounds are open."""


def rounds_and_clients(group: Group) -> Markup | None:
    """A table of rounds, the mean of several runs, and each run's clients; None of a run that has none."""
    pool = [run for run in (group.finished or group.runs) if run.rounds]
    if not pool:
        return None
    several = len(pool) > 1
    titled: list[tuple[str, Table | None]] = [
        ("Rounds (mean \u00b1 standard deviation)" if several else "Rounds", _rounds(pool, group.metric_names[:1]))
    ]
    titled += [(f"Clients, seed {run.seed}" if several else "Clients", _clients(run)) for run in pool]
    content = tables(titled)
    assert content is not None
    if max(len(run.rounds) for run in pool) <= OPEN_ROUNDS:
        return content
    return folded("Rounds and clients", content)


def _rounds(pool: Sequence[Run], metrics: Sequence[str]) -> Table:
    """A row for each round that a run has come to."""
    numbers = sorted({one["round"] for run in pool for one in run.rounds})
    fair = any(one["aggregation"] == FAIR for run in pool for one in run.rounds)
    metrics = [name for name in metrics if any(name in (one["metrics"] or {}) for run in pool for one in run.rounds)]
    several = len(pool) > 1
    head = ["round", "step", *(["runs"] if several else []), *map(readable, metrics), "loss of the clients"]
    head += [
        *(["correction"] if fair else []),
        "distance",
        "up",
        "down",
        "clients",
        "failed" if several else "failed or left out",
    ]
    rows: list[list[object]] = []
    for number_ in numbers:
        found = [(run, one) for run in pool for one in run.rounds if one["round"] == number_]
        same = [one for _, one in found]
        rows.append(
            [
                f"{number_}",
                f"{same[0]['step']:,}",
                *([f"{len(same)}"] if several else []),
                *(mean_and_sd([(one["metrics"] or {}).get(name) for one in same]) for name in metrics),
                mean_and_sd([mean_loss(one) for one in same]),
                *([_mean(same, "correction", norm)] if fair else []),
                _mean(same, "distance", percent),
                *(_mean(same, key, lambda found: size(round(found))) for key in ("bytes_up", "bytes_down")),
                _range([came(one) for one in same]) + f" of {len(same[0]['clients'])}",
                narrowed(_failed(found) if several else absent(same[0]) or NOTHING),
            ]
        )
    made = table(head, rows)
    return Table(join([made.markup, tag("p", _explained(fair), class_="note")]), made.need)


def _explained(fair: bool) -> str:
    correction = "Correction: norm of all that the server added to the mean of B. " if fair else ""
    return (
        "Loss: mean over the clients that trained, by their examples. "
        + correction
        + "Distance: of the product of the mean factors from the mean of the products, as a share of its norm."
    )


def _mean(same: Sequence[Round], key: str, written: Callable[[float], str]) -> str:
    """The mean of the runs' numbers, and their deviation where there is one."""
    found: dict[str, Any] = spread([one[key] for one in same])
    if found["mean"] is None:
        return NOTHING
    return dashed(written(found["mean"])) + (f" \u00b1 {written(found['sd'])}" if found["sd"] else "")


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}\u2013{max(counts)}"


def _failed(found: Sequence[tuple[Run, Round]]) -> str:
    """Which clients failed in which run: those left out were drawn, in every run others."""
    said = []
    for run, one in found:
        failed = [client["client"] for client in one["clients"] if client["state"] == "failed"]
        said += [f"seed {run.seed}: {spans(failed)}"] if failed else []
    return "; ".join(said) or NOTHING


def _clients(run: Run) -> Table:
    """A row for each client: what it holds, and what it did."""
    classes = balance(run.metrics.get("clients") or () if run.metrics else ())
    unknown = [NOTHING] * len(classes.head)
    head = ["client", "examples", *classes.head, "last loss", "trained", "left out", "failed"]
    rows = [
        [
            f"{one.client}",
            f"{one.examples:,}",
            *classes.cells.get(one.client, unknown),
            dashed(number(one.loss)),
            *(f"{count:,}" for count in (one.trained, one.left_out, one.failed)),
        ]
        for one in client_rounds(run.rounds)
    ]
    return table(head, rows)
