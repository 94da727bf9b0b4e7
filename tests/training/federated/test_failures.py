"""Clients that fail: a round goes on without them, and a run that nobody comes to ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dora_cli import dump_recipe, train
from dora_cli.errors import DivergedError
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import Snapshot
from dora_cli.training.federated.aggregation import AGGREGATIONS, Merged
from dora_cli.training.federated.clients import Client, Turns
from dora_cli.training.step import TrainingStep
from tests.commands.conftest import dora
from tests.runs.test_resume import assert_equal_runs
from tests.training.federated.conftest import MakeFederated
from tests.training.test_run import lines, read

NAN = float("nan")
Plant = Callable[[Collection[tuple[int, int]]], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Makes the losses of given clients at given steps, ``(client, step)``, not a number."""
    turn, step = Turns.__call__, TrainingStep.__call__
    present = 0

    def noted_turn(self: Turns, client: Client, *arguments: Any) -> Any:
        nonlocal present
        present = client.number
        return turn(self, client, *arguments)

    def plant(places: Collection[tuple[int, int]]) -> None:
        def call(self: TrainingStep, number: int, batches: Sequence[Any], units: int, *, event: bool) -> Any:
            loss = self.loss
            if (present, number) in places:
                self.loss = lambda outputs, batch: loss(outputs, batch) * NAN
            try:
                return step(self, number, batches, units, event=event)
            finally:
                self.loss = loss

        monkeypatch.setattr(Turns, "__call__", noted_turn)
        monkeypatch.setattr(TrainingStep, "__call__", call)

    return plant


def states(metrics: Any) -> list[list[str]]:
    return [[client["state"] for client in record["clients"]] for record in metrics["rounds"]]


@pytest.mark.parametrize(("client", "step"), [(2, 6), (3, 8), (1, 5)])
def test_a_round_goes_on_without_a_client_that_fails(
    federated: MakeFederated, tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch, client: int, step: int
) -> None:
    """In round 2, within its turn, at the last step of all turns, and at the first; it comes again in round 3."""
    sent: list[tuple[torch.Tensor, torch.Tensor, Merged]] = []

    def spy(A: torch.Tensor, B: torch.Tensor, weights: torch.Tensor, residual: float) -> Merged:
        sent.append((A, weights, average(A, B, weights, residual)))
        return sent[-1][2]

    average = AGGREGATIONS["average"]
    monkeypatch.setitem(AGGREGATIONS, "average", spy)
    plant({(client, step)})
    recipe = federated("federated.aggregation=average", "train.log_every=2")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    done = dora("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run", "--plain")
    assert done.code == 0, done.err
    assert f"client {client} failed in round 2" in " ".join((done.out + done.err).split())
    metrics = read(tmp_path / "run" / "metrics.json")
    expected = [["trained"] * 3 for _ in range(3)]
    expected[1][client - 1] = "failed"
    assert states(metrics) == expected
    record = metrics["rounds"][1]
    assert [one["loss"] is None for one in record["clients"]] == [one == "failed" for one in expected[1]]
    assert record["bytes_up"] * 3 == record["bytes_down"] * 2

    examples = [one["examples"] for one in record["clients"] if one["state"] == "trained"]
    shares = torch.tensor(examples, dtype=torch.float64) / sum(examples)
    per_round = len(sent) // 3
    assert [len(A) for A, _, _ in sent] == [3] * per_round + [2] * per_round + [3] * per_round
    for A, weights, merged in sent[per_round : 2 * per_round]:
        torch.testing.assert_close(weights, shares)
        torch.testing.assert_close(merged.A.double(), torch.einsum("k,krd->rd", shares, A.double()), rtol=0, atol=1e-7)
    logged = [line for line in lines(tmp_path / "run" / "log.jsonl") if line["type"] == "train"]
    assert [line["step"] for line in logged] == [2, 4, 6, 8, 10, 12]
    assert all(line["loss"] > 0 for line in logged)

    before, after = (Snapshot.load(tmp_path / "run" / "checkpoints" / f"step-{number}") for number in (4, 8))
    assert before.progress["clients"][client - 1] == after.progress["clients"][client - 1]
    own = [name for name in before.optimizer if name.startswith(f"{client}.")]
    assert own
    assert all(before.optimizer[name].equal(after.optimizer[name]) for name in own)
    later = Snapshot.load(tmp_path / "run" / "checkpoints" / "step-12")
    assert {float(later.optimizer[name]) for name in own if name.endswith(".step")} == {8.0}  # it has missed a round


def test_weights_that_are_not_finite_are_not_sent(
    federated: MakeFederated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of client 1, after the last step of its turn, of which no loss tells."""
    step, calls = TrainingStep.__call__, 0

    def call(self: TrainingStep, number: int, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        report = step(self, number, *arguments, **options)
        calls += number == 4
        if (calls, number) == (1, 4):
            with torch.no_grad():
                next(iter(self.method.parameters())).view(-1)[0] = NAN
        return report

    monkeypatch.setattr(TrainingStep, "__call__", call)
    result = train(federated(), tmp_path / "run")
    assert states(result.metrics) == [["failed", "trained", "trained"], ["trained"] * 3, ["trained"] * 3]


def test_a_client_that_fails_before_it_has_ever_come(federated: MakeFederated, tmp_path: Path, plant: Plant) -> None:
    """It is as new in the next round, and a run that is resumed between the two knows that."""
    plant({(2, 1)})
    recipe = federated("federated.rounds=2")
    result = train(recipe, tmp_path / "straight")
    assert states(result.metrics) == [["trained", "failed", "trained"], ["trained"] * 3]
    first = Snapshot.load(tmp_path / "straight" / "checkpoints" / "step-4")
    assert first.progress["clients"][1] == {"client": 2, "epoch": 1, "groups": 0, "counters": None}
    assert not [name for name in (*first.optimizer, *first.random) if name.startswith("2.")]


def test_a_round_to_which_nobody_comes_ends_the_run(federated: MakeFederated, tmp_path: Path, plant: Plant) -> None:
    """Which goes on from the round before once the cause is gone."""
    recipe = federated()
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    with pytest.MonkeyPatch.context():
        plant({(client, 7) for client in (1, 2, 3)})
        done = dora("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    assert (done.code, "Traceback" in done.err) == (3, False)
    for said in ("round 2", "client 1: ", "client 2: ", "client 3: ", "step 7 (round 2, step 3 of 4)"):
        assert said in " ".join(done.err.split())
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == ["step-4"]
    plant(set())
    assert dora("train", tmp_path / "recipe.yaml", "--output", tmp_path / "run", "--resume").code == 0
    train(recipe, tmp_path / "straight")
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")


def test_steps_that_are_let_pass_are_counted_by_client(federated: MakeFederated, tmp_path: Path, plant: Plant) -> None:
    """Client 1 has two bad steps, and the second is one too many; client 3 has one, and its step a loss of others."""
    plant({(1, 2), (1, 9), (3, 6)})
    result = train(federated("train.skip_nonfinite=1", "train.log_every=1"), tmp_path / "run")
    assert states(result.metrics) == [["trained"] * 3, ["trained"] * 3, ["failed", "trained", "trained"]]
    logged = [line for line in lines(tmp_path / "run" / "log.jsonl") if line["type"] == "train"]
    assert all(line["loss"] is not None for line in logged)


def test_a_client_that_learns_nothing_in_a_round_has_no_loss(
    federated: MakeFederated, tmp_path: Path, plant: Plant
) -> None:
    plant({(2, step) for step in range(1, 5)})
    result = train(federated("train.skip_nonfinite=4", "federated.rounds=2"), tmp_path / "run")
    losses = [[client["loss"] is None for client in record["clients"]] for record in result.metrics["rounds"]]
    assert losses == [[False, True, False], [False] * 3]
    assert states(result.metrics) == [["trained"] * 3] * 2


def test_a_run_in_which_no_client_learns_anything_is_no_result(
    federated: MakeFederated, tmp_path: Path, plant: Plant
) -> None:
    plant({(client, step) for client in (1, 2, 3) for step in range(1, 13)})
    with pytest.raises(DivergedError, match="skip_nonfinite"):
        train(federated("train.skip_nonfinite=100"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
