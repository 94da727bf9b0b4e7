"""A federated run that was killed, stopped or cut off goes on as if nothing had happened, and several processes come to
what one does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora_cli import dump_recipe, train
from dora_cli.errors import CheckpointError, StoppedError
from dora_cli.recipe import Recipe
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.listener import SilentListener
from tests.hostile.edits import sign
from tests.runs.test_resume import assert_equal_runs
from tests.training.federated.conftest import MakeFederated
from tests.training.killing import Straight, Strike, Warm
from tests.training.test_run import largest_difference, read

forked = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")

SOME = ("federated.clients=4", "federated.participation=0.5", "data.max_train_samples=30", "train.seed=145")
"""Two of four clients are drawn for a round: 2 and 4, so that 1 and 3 are new at its checkpoint, then 1 and 2, then 1
and 4, both of which go on from what they had.
"""


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


GetStraight = Callable[[Recipe], Path]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> GetStraight:
    """The folder of a run of a recipe that nothing has interrupted; made once."""
    made: dict[str, Path] = {}

    def get(recipe: Recipe) -> Path:
        key = recipe.model_dump_json()
        if key not in made:
            made[key] = tmp_path_factory.mktemp("straight") / "run"
            train(recipe, made[key])
        return made[key]

    return get


# Killed ---------------------------------------------------------------------------------------------------------------


def kill(place: str, visit: int = 1) -> Strike:
    return Strike(place, visit)


THROUGH_A_RUN = (
    kill("turn: step 3 of client 4"),  # nothing is saved yet
    kill("evaluation: step 4"),  # between rounds
    kill("checkpoint: step-4 manifest.json synced"),  # whole, but not in its place
    kill("turn: step 6 of client 2"),
    kill("checkpoint: step-8 half of optimizer.safetensors"),
    kill("log: half a line"),
    kill("turn: step 12 of client 4"),
    kill("records: metrics.json in place"),
)


@forked
def test_killed_at_chosen_moments(warm: Warm, federated: MakeFederated, tmp_path: Path) -> None:
    straight = Straight.of(warm, federated(*SOME, "save.keep=2"), tmp_path)
    drawn = [
        [client["client"] for client in record["clients"] if client["state"] == "trained"]
        for record in read(straight.run / "metrics.json")["rounds"]
    ]
    assert drawn == [[2, 4], [1, 2], [1, 4]]
    attempts = straight.struck(warm, tmp_path / "struck", THROUGH_A_RUN)
    assert [attempt.marks[-1] for attempt in attempts[:-1]] == [strike.place for strike in THROUGH_A_RUN]
    straight.assert_equals(tmp_path / "struck")


# Stopped --------------------------------------------------------------------------------------------------------------


class Signalled(SilentListener):
    """Sends this process a signal at one of its ticks, or while it evaluates."""

    def __init__(self, number: int, *, tick: int | None = None, evaluation: int | None = None) -> None:
        self.number, self.tick_at, self.evaluation = number, tick, evaluation
        self.ticks, self.evaluations = 0, 0
        self.steps: list[int] = []

    def tick(self, step: int, phase: str, budget: int) -> None:
        self.ticks += 1
        self.steps.append(step)
        if self.ticks == self.tick_at:
            os.kill(os.getpid(), self.number)

    def evaluating(self, split: str, done: int, total: int) -> None:
        self.evaluations += done == 1
        if self.evaluations == self.evaluation:
            self.evaluation = None
            os.kill(os.getpid(), self.number)


def test_a_stop_in_the_first_round_keeps_nothing(federated: MakeFederated, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="nothing was saved") as caught:
        train(federated(*SOME), tmp_path / "run", listener=Signalled(signal.SIGTERM, tick=3))
    assert caught.value.exit_code == 143
    assert not checkpoints_of(RunRecords(tmp_path / "run"))
    with pytest.raises(CheckpointError):
        train(federated(*SOME), tmp_path / "run", resume=True)
    train(federated(*SOME), tmp_path / "run", overwrite=True)


def test_a_stop_within_a_round_begins_it_again(federated: MakeFederated, straight: GetStraight, tmp_path: Path) -> None:
    """In the turn of the second client of round 3, 8 steps of two clients having been in each of the rounds before."""
    recipe = federated(*SOME)
    listener = Signalled(signal.SIGINT, tick=8 + 8 + 6)
    with pytest.raises(StoppedError, match=r"step 8;.* not kept; .*resume") as caught:
        train(recipe, tmp_path / "run", listener=listener)
    assert caught.value.exit_code == 130
    assert listener.steps[-1] == 11  # half of its steps and of the other's
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == ["step-4", "step-8"]
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(straight(recipe), tmp_path / "run")


@pytest.mark.parametrize("tick", [2, 8])  # within the first turn, at the end of the second
def test_a_stop_keeps_the_round_before(
    federated: MakeFederated, straight: GetStraight, tmp_path: Path, tick: int
) -> None:
    """Also where no round is followed by a checkpoint: it is written then, without what the turns of the third have
    changed.
    """
    recipe = federated(*SOME, "save.every_epoch=false", "eval.every=end")
    with pytest.raises(StoppedError, match=r"after step 8; .* not kept"):
        train(recipe, tmp_path / "run", listener=Signalled(signal.SIGTERM, tick=8 + 8 + tick))
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == ["step-8"]
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(straight(recipe), tmp_path / "run")


def test_a_stop_while_a_round_is_evaluated_goes_on_with_its_evaluation(
    federated: MakeFederated, straight: GetStraight, tmp_path: Path
) -> None:
    recipe = federated(*SOME)
    with pytest.raises(StoppedError, match="after step 8"):
        train(recipe, tmp_path / "run", listener=Signalled(signal.SIGTERM, evaluation=2))
    listener = Signalled(signal.SIGTERM)
    train(recipe, tmp_path / "run", resume=True, listener=listener)
    assert set(listener.steps) == {9, 10, 11, 12}
    assert_equal_runs(straight(recipe), tmp_path / "run")
    again = Signalled(signal.SIGTERM)
    train(recipe, tmp_path / "run", resume=True, listener=again)
    assert again.steps == [], "a finished run is left as it is"


# Damaged --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda progress: progress["clients"].pop(), "4 clients"),
        (lambda progress: progress.pop("clients"), "4 clients"),
        (lambda progress: progress["clients"][0].update(groups=1), "client 1"),  # it has not trained yet
        (lambda progress: progress["clients"][1].update(counters=None), "client 2"),
        (lambda progress: progress["clients"][1].update(groups=9), "client 2"),
        (lambda progress: progress["clients"][1]["counters"].update(scheduler=9), "client 2"),
        (lambda progress: progress["rounds"].pop(), "rounds"),
        (lambda progress: progress.pop("rounds"), "rounds"),
        (lambda progress: progress["rounds"][0]["clients"].pop(), "rounds"),
    ],
)
def test_a_damaged_state_of_clients_is_refused(
    federated: MakeFederated,
    straight: GetStraight,
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], object],
    named: str,
) -> None:
    recipe = federated(*SOME)
    folder = cut_after_the_first_round(straight(recipe), tmp_path / "run")
    progress = read(folder / "progress.json")
    edit(progress)
    (folder / "progress.json").write_text(json.dumps(progress))
    sign(folder)
    with pytest.raises(CheckpointError, match=named):
        train(recipe, tmp_path / "run", resume=True)


def cut_after_the_first_round(straight: Path, run: Path) -> Path:
    """Makes `run` what the first round of `straight` had left; returns the folder of its checkpoint."""
    shutil.copytree(straight, run)
    (run / "metrics.json").unlink()
    for later in ("step-8", "step-12"):
        shutil.rmtree(run / "checkpoints" / later)
    return run / "checkpoints" / "step-4"


# Several processes ----------------------------------------------------------------------------------------------------


@forked
def test_two_processes_come_to_what_one_does(
    warm: Warm, federated: MakeFederated, straight: GetStraight, tmp_path: Path
) -> None:
    """Three clients on two; dropout is the clients', and so the same. From the beginning, and from what one process has
    left after the first round.
    """
    recipe = federated()
    one = straight(recipe)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    cut_after_the_first_round(one, tmp_path / "resumed")
    for name, more in (("two", ()), ("resumed", ("--resume",))):
        command = ("train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / name), *more)
        attempts = warm.run_together(*command, strikes=[None, None])
        assert [attempt.code for attempt in attempts] == [0, 0], [attempt.output for attempt in attempts]
        turns = [{mark[-1] for mark in attempt.marks if mark.startswith("turn")} for attempt in attempts]
        assert turns == [{"1", "3"}, {"2"}]
        for step in (8, 12):
            checkpoint = f"checkpoints/step-{step}"
            assert largest_difference(one / checkpoint, tmp_path / name / checkpoint) <= 1e-6
        found, expected = (read(run / "metrics.json") for run in (tmp_path / name, one))
        assert found["clients"] == expected["clients"]
        for mine, theirs in zip(found["rounds"], expected["rounds"], strict=True):
            assert mine.keys() == theirs.keys()
            for key in ("round", "step", "aggregation", "bytes_up", "bytes_down"):
                assert mine[key] == theirs[key]
            assert mine["distance"] == pytest.approx(theirs["distance"], abs=1e-5)
            losses = [[client["loss"] for client in record["clients"]] for record in (mine, theirs)]
            assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert read(tmp_path / "two" / "environment.json")["processes"] == 2


@forked
def test_a_signal_to_one_process_ends_both_within_a_turn(warm: Warm, federated: MakeFederated, tmp_path: Path) -> None:
    """They agree after ten steps, of which process 2 makes none, since client 2 has had its turn: it does not wait for
    the end of the other's.
    """
    (tmp_path / "recipe.yaml").write_text(dump_recipe(federated("federated.local_steps=25", "federated.rounds=2")))
    command = ("train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run"))
    strike = Strike("turn: step 28 of client 3", numbers=(signal.SIGTERM,))
    attempts = warm.run_together(*command, strikes=[strike, None])
    assert [attempt.code for attempt in attempts] == [143, 143], [attempt.output for attempt in attempts]
    turns = [[mark for mark in attempt.marks if mark.startswith("turn")] for attempt in attempts]
    assert [marks[-1] for marks in turns] == ["turn: step 35 of client 3", "turn: step 50 of client 2"]


@forked
def test_a_signal_to_one_process_ends_both_after_a_turn(
    warm: Warm, federated: MakeFederated, straight: GetStraight, tmp_path: Path
) -> None:
    """They agree when each has had a client; both then know the same of what is kept."""
    recipe = federated()
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    command = ("train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run"))
    strike = Strike("turn: step 6 of client 2", numbers=(signal.SIGTERM,))
    attempts = warm.run_together(*command, strikes=[None, strike])
    assert [attempt.code for attempt in attempts] == [143, 143], [attempt.output for attempt in attempts]
    assert re.search(r"^dora: .* SIGTERM .* 4; .*: torchrun ", attempts[0].output, re.MULTILINE)
    assert attempts[1].output == ""
    for attempt in warm.run_together(*command, "--resume", strikes=[None, None]):
        assert attempt.code == 0, attempt.output
    assert largest_difference(straight(recipe) / "adapter", tmp_path / "run" / "adapter") <= 1e-6
