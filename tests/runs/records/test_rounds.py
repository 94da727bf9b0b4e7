"""Rounds and clients that cannot be, and the loss of a round."""

from __future__ import annotations

from typing import Any

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.runs.records.log import is_line, written_line
from dora_cli.runs.records.metrics import validate_metrics
from dora_cli.runs.records.rounds import mean_loss
from tests.reports.examples import metrics, parts, rounds


def federated(**changes: Any) -> dict[str, Any]:
    return {**metrics(rounds=rounds(3), clients=parts()), **changes}


def test_a_federated_run_is_written_and_read() -> None:
    record = validate_metrics(federated())
    assert record.rounds is not None
    assert record.clients is not None
    assert [one.round for one in record.rounds] == [1, 2, 3]
    assert [one.state for one in record.rounds[1].clients] == ["trained", "trained", "failed", "trained"]
    assert record.clients[0].labels == {"no": 90, "yes": 10}
    assert validate_metrics(metrics()).rounds is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round": 2}, r"rounds must ascend by their numbers, but 2 follows 2"),
        ({"round": 0}, r"rounds\[2\]\.round is 0"),
        ({"correction": -1.0}, r"rounds\[2\]\.correction is -1\.0"),
        ({"distance": -0.1}, r"rounds\[2\]\.distance is -0\.1"),
        ({"aggregation": "sum"}, r"rounds\[2\]\.aggregation is 'sum'"),
        ({"clients": []}, r"rounds\[2\]\.clients is \[\]"),
        ({"clients": rounds(1)[0]["clients"][::-1]}, r"rounds\[2\]: clients must ascend .* 3 follows 4"),
        ({"bytes_up": 1.5}, r"rounds\[2\]\.bytes_up is 1\.5"),
    ],
)
def test_every_round_is_checked(change: dict[str, Any], message: str) -> None:
    record = federated()
    record["rounds"][2] |= change
    with pytest.raises(CheckpointError, match=message):
        validate_metrics(record)


def test_who_was_left_out_has_no_loss() -> None:
    record = federated()
    record["rounds"][0]["clients"][1]["loss"] = 0.5
    with pytest.raises(CheckpointError, match=r"rounds\[0\]\.clients\[1\]: client 2 was left out"):
        validate_metrics(record)


def test_labels_are_those_of_the_examples() -> None:
    record = federated()
    record["clients"][3]["labels"]["yes"] += 1
    with pytest.raises(CheckpointError, match=r"clients\[3\]: client 4 has 400 examples"):
        validate_metrics(record)
    record["clients"] = [{**part, "labels": None} for part in parts()]
    assert validate_metrics(record).clients is not None, "a task without classes has none"
    record["clients"].reverse()
    with pytest.raises(CheckpointError, match="clients must ascend"):
        validate_metrics(record)


def test_a_round_is_a_line_of_the_log() -> None:
    line = {"type": "round", **rounds(1)[0]}
    assert written_line(line) == line
    assert is_line({**line, "carbon": 1}), "lines have no version: a later one may say more"
    assert not is_line({**line, "round": 0})


def test_the_loss_of_a_round_is_by_examples_and_of_those_that_trained() -> None:
    one = rounds(2)[1]  # losses 0.46, 0.47, none (failed), 0.49 of 100, 200, 300 and 400 examples
    assert mean_loss(one) == pytest.approx((100 * 0.46 + 200 * 0.47 + 400 * 0.49) / 700)
    one["clients"][2]["loss"] = 1e6  # it came to a loss, but to nothing that the server could take
    assert mean_loss(one) == pytest.approx((100 * 0.46 + 200 * 0.47 + 400 * 0.49) / 700)
    for client in one["clients"]:
        client["loss"] = None
    assert mean_loss(one) is None
