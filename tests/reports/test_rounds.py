"""Rounds and clients in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from dora_cli.reports.rounds import (
    ClientRounds,
    absent,
    balance,
    client_rounds,
    norm,
    percent,
    print_rounds,
    round_line,
    rounds_summary,
    spans,
)
from tests.reports.examples import parts, rounds


def printed(*arguments: Any, width: int = 80, **settings: Any) -> list[list[str]]:
    """The words of every line."""
    file = io.StringIO()
    print_rounds(Console(file=file, width=width, highlight=False), *arguments, **settings)
    return [line.split() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("numbers", "said"), [([1], "1"), ([1, 2], "1, 2"), ([0, 2, 5, 6, 7, 9], "0, 2, 5-7, 9"), ([], "")]
)
def test_numbers_in_a_row_are_a_span(numbers: list[int], said: str) -> None:
    assert spans(numbers) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.5, "50 %"), (1.234, "123 %"), (0.034, "3.4 %"), (0.00341, "0.34 %"), (0.0, "0 %"), (None, "-")],
)
def test_shares(share: float | None, said: str) -> None:
    assert percent(share) == said


def test_a_small_norm_is_not_rounded_away() -> None:
    assert [norm(value) for value in (0.0, 1.23456, 0.0000123456, None)] == ["0", "1.23", "1.23e-05", "-"]


def test_who_was_away_is_said_with_why() -> None:
    of = {1: "trained", 2: "left out", 3: "left out", 4: "left out", 5: "failed", 6: "trained"}
    one = {"clients": [{"client": client, "state": state} for client, state in of.items()]}
    assert absent(one) == "failed 5, left out 2-4"
    assert absent(rounds(3)[2]) == ""


def test_a_client_over_all_rounds() -> None:
    found = client_rounds(rounds(4))
    assert found[1] == ClientRounds(2, 200, trained=3, left_out=1, failed=0, loss=pytest.approx(0.245))
    assert found[2] == ClientRounds(3, 300, trained=3, left_out=0, failed=1, loss=pytest.approx(0.255))
    assert client_rounds(rounds(2))[2].loss == pytest.approx(0.93), "its last known one, of the round before"


def test_a_line_for_each_round() -> None:
    first, second, third = rounds(3)
    assert round_line(second, 10) == (
        "round 2/10 step 50 loss 0.4800 (0.4600 to 0.4900) correction 0.00625 distance 1.7 % up 3.8 MiB down 5.1 MiB "
        "3 of 4 clients (failed 3)"
    )
    assert round_line(first).startswith("round 1 step 25 ")
    assert round_line(third).endswith(" 4 of 4 clients")
    assert "correction" not in round_line(rounds(1, aggregation="average")[0])


def test_a_line_of_a_single_client_and_of_none_that_gave_a_loss() -> None:
    (one,) = rounds(1, clients=1)
    assert "loss 0.9100 correction" in round_line(one)
    one["clients"][0] |= {"state": "failed", "loss": None}
    assert "loss - correction" in round_line(one)


def test_the_summary_adds_up_what_travelled() -> None:
    assert rounds_summary(rounds(4)) == "4 with 4 clients, lora-fair, 17.7 MiB up, 20.2 MiB down, 1 failure"
    assert rounds_summary(rounds(1, aggregation="exact")).startswith("1 with 4 clients, exact, ")


def test_classes_are_shares_and_of_many_the_commonest() -> None:
    assert balance(parts(2)) == (["no", "yes"], {1: ["90 %", "10 %"], 2: ["80 %", "20 %"]})
    assert balance(parts(2), most=1) == (["commonest class"], {1: ["no (90 %)"], 2: ["no (80 %)"]})
    assert balance([{"client": 1, "examples": 3, "labels": None}]) == ([], {})
    apart = [
        {"client": 1, "examples": 3, "labels": {"a": 3}},
        {"client": 2, "examples": 4, "labels": {"b": 4}},
    ]
    assert balance(apart) == (["a", "b"], {1: ["100 %", "0 %"], 2: ["0 %", "100 %"]})


def test_tables_of_rounds_and_clients() -> None:
    evaluations = [{"metrics": {"f1": 0.8, "accuracy": 0.7}}, {"metrics": {"f1": 0.9, "accuracy": 0.75}}]
    lines = printed(rounds(2, evaluations=evaluations), parts(), primary="accuracy")
    assert ["round", "accuracy", "train", "loss", "correction", "distance", "clients"] in lines
    assert ["2", "0.7500", "0.4800", "0.00625", "1.7", "%", "3,", "failed", "3"] in lines
    assert ["client", "examples", "no", "yes", "last", "loss", "trained", "left", "out", "failed"] in lines
    assert ["4", "400", "60", "%", "40", "%", "0.4900", "2", "0", "0"] in lines


def test_no_column_for_what_nothing_is_known_of() -> None:
    lines = printed(rounds(2, aggregation="average"))
    assert ["round", "train", "loss", "distance", "clients"] in lines
    assert ["client", "examples", "last", "loss", "trained", "left", "out", "failed"] in lines


def test_long_tables_leave_room_for_what_follows() -> None:
    lines = printed(rounds(40, clients=50), parts(50))
    assert len(lines) < 40
    assert lines[3][0] == "17"
    assert ["the", "last", "24", "of", "40;", "dora", "report", "shows", "all"] in lines
    assert lines[-1][:7] == ["50", "clients", "of", "100", "to", "5,000", "examples;"]


def test_markup_in_the_name_of_a_class_is_text() -> None:
    part = {"client": 1, "examples": 100, "labels": {"[red]": 60, "b\x1b": 40}}
    (head,) = [line for line in printed(rounds(1, clients=1), [part]) if line[:1] == ["client"]]
    assert head[2] == "[red]"
    assert "\x1b" not in head[3]
