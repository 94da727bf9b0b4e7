"""SIGTERM, SIGINT and SIGHUP: the step is finished, the run saved, and what is printed goes on with it; a second signal
does not wait.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dora_cli import train
from dora_cli.errors import DoraError, StoppedError
from dora_cli.machine.signals import StopSignals
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import newest_checkpoint
from dora_cli.training.listener import SilentListener
from dora_cli.training.loop import Loop
from tests.training.conftest import MakeRecipe
from tests.training.killing import Attempt, Straight, Strike, Warm
from tests.training.test_generation import models, recipe_of, tokenizer  # noqa: F401 - fixtures

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")

# No checkpoints but those after an epoch, and those that signals ask for.
CHANGES = (
    "data.max_train_samples=46", "data.max_eval_samples=16", "method.targets=['*.self.*', '*.attention.output.dense']",
    "method.dropout=0.2", "train.batch_size=4", "train.gradient_accumulation=2", "eval.select=last",
)  # fmt: skip
CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


@pytest.fixture(scope="module")
def straights() -> dict[str, Straight]:
    return {}


@pytest.fixture
def straight(
    warm: Warm, make_recipe: MakeRecipe, straights: dict[str, Straight], tmp_path_factory: pytest.TempPathFactory
) -> Straight:
    if "run" not in straights:
        straights["run"] = Straight.of(warm, make_recipe(*CHANGES), tmp_path_factory.mktemp("straight"))
    return straights["run"]


def stopped_by(warm: Warm, *command: str, strike: Strike) -> Attempt:
    """A command that a signal ends: with its code, one message, and nothing else."""
    attempt = warm.run(*command, strike=strike)
    assert attempt.struck
    assert attempt.code == CODES[signal.Signals(strike.numbers[-1])], attempt.output
    assert "Traceback" not in attempt.output
    assert f"dora: stopped by {signal.Signals(strike.numbers[-1]).name}" in attempt.output.splitlines()[-1]
    return attempt


def stopped_at(warm: Warm, straight: Straight, run: Path, *arguments: str, strike: Strike) -> Attempt:
    """A run that a signal ends."""
    return stopped_by(warm, "train", str(straight.recipe), "--output", str(run), *arguments, strike=strike)


def told(attempt: Attempt) -> list[str]:
    """The arguments of the command that the last line names."""
    program, *arguments = shlex.split(attempt.output.splitlines()[-1].split("go on with: ")[1])
    assert program == "dora"
    return arguments


STOPS = (
    ("warm-up: step 2", 2, signal.SIGTERM),
    ("event: step 9", 9, signal.SIGINT),
    ("freeze: step 11", 11, signal.SIGTERM),
    ("final: step 15", 15, signal.SIGHUP),
)
"""A mark within a step, the step, and the signal that comes there."""


def test_a_signal_finishes_the_step(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    """In every phase; what each stop says is what the run goes on with, up to the next one."""
    run = tmp_path / "run"
    attempt = None
    for place, step, number in STOPS:
        command = ("train", str(straight.recipe), "--output", str(run)) if attempt is None else told(attempt)
        attempt = stopped_by(warm, *command, strike=Strike(place, numbers=(number,)))
        assert f"after step {step};" in attempt.output
        assert newest_checkpoint(RunRecords(run)).folder.name == f"step-{step}"
    assert attempt is not None
    assert warm.run(*told(attempt)).code == 0
    straight.assert_equals(run)


def test_a_signal_in_an_evaluation(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    """The epoch's steps are saved without their evaluation.

    After it, their checkpoint is replaced: killed between the two renames.
    """
    attempt = stopped_at(
        warm, straight, tmp_path / "run", strike=Strike("evaluation: batch", 2, numbers=(signal.SIGTERM,))
    )
    assert "after step 12;" in attempt.output
    found = newest_checkpoint(RunRecords(tmp_path / "run"))
    assert found.folder.name == "step-12"
    assert found.snapshot.progress["at"]["train_loss"] is not None
    assert [entry["step"] for entry in found.snapshot.progress["epochs"]] == [6]
    attempt_again = warm.run(*told(attempt), strike=Strike("checkpoint: step-12 old renamed"))
    assert attempt_again.code == -signal.SIGKILL
    assert not (tmp_path / "run" / "checkpoints" / "step-12").exists()
    assert warm.run(*told(attempt)).code == 0
    straight.assert_equals(tmp_path / "run")


def test_a_second_signal_does_not_wait(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    """Both fall into a checkpoint that is being written: the one before is still whole, and named as what can be gone
    on from.
    """
    command = ["train", str(straight.recipe), "--output", str(tmp_path / "run")]
    for second in (signal.SIGTERM, signal.SIGINT):
        strike = Strike("checkpoint: step-12 half of optimizer.safetensors", numbers=(signal.SIGTERM, second), gap=0.1)
        attempt = stopped_by(warm, *command, strike=strike)
        assert attempt.marks[-1] == strike.place
        assert "without saving again; " in attempt.output
        assert newest_checkpoint(RunRecords(tmp_path / "run")).folder.name == "step-6"
        command = told(attempt)
    assert warm.run(*command).code == 0
    straight.assert_equals(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_new_run_is_loaded(warm: Warm, straight: Straight, tmp_path: Path, number: int) -> None:
    attempt = stopped_at(warm, straight, tmp_path / "run", strike=Strike("loading: model", numbers=(number,)))
    assert attempt.marks[-1] == "loading: model"
    (said,) = attempt.output.splitlines()
    assert signal.Signals(number).name in said
    assert said.endswith("; nothing was saved yet")
    assert not (tmp_path / "run").exists()


def test_a_signal_before_anything_is_loaded(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    command = ("train", str(straight.recipe), "--output", str(tmp_path / "run"))
    attempt = warm.run(*command, strike=Strike("loading: recipe", numbers=(signal.SIGINT,)))
    assert attempt.code == 130
    assert re.fullmatch(r"dora: .* SIGINT\n", attempt.output)
    attempt = warm.run(*command, strike=Strike("loading: recipe", numbers=(signal.SIGTERM,)))
    assert (attempt.code, attempt.output) == (-signal.SIGTERM, "")  # to a shell: 143


def test_a_signal_while_a_checkpoint_is_read(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    """It must not be taken for damage, and the checkpoint be skipped."""
    attempt = stopped_at(warm, straight, tmp_path / "run", strike=Strike("final: step 14", numbers=(signal.SIGTERM,)))
    again = stopped_at(
        warm, straight, tmp_path / "run", "--resume", strike=Strike("loading: tensors", 2, numbers=(signal.SIGTERM,))
    )
    assert re.match(r"dora: .* SIGTERM; .*: dora train ", again.output.splitlines()[-1])
    assert "step-" not in again.output, "nothing is said of damaged checkpoints"
    assert warm.run(*told(attempt)).code == 0
    straight.assert_equals(tmp_path / "run")


def test_a_signal_while_finished_weights_are_decoded(warm: Warm, models: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    straight = Straight.of(
        warm,
        recipe_of(
            models["gpt2"], "method.dropout=0.1", "train.epochs=1", "decode.epoch_samples=0", "decode.max_new_tokens=3"
        ),
        tmp_path,
    )
    attempt = stopped_at(
        warm, straight, tmp_path / "struck", strike=Strike("decoding: batch", numbers=(signal.SIGTERM,))
    )
    assert attempt.marks[-1] == "decoding: batch"
    assert warm.run(*told(attempt)).code == 0
    straight.assert_equals(tmp_path / "struck")


# -- within a program --------------------------------------------------------------------------------------------------


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in CODES]


class Watching(SilentListener):
    """Remembers the handlers at the first step; may send a signal."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        self.seen: list[Any] = []

    def tick(self, step: int, phase: str, budget: int) -> None:
        self.seen = self.seen or handlers()
        if step == 2 and self.number is not None:
            os.kill(os.getpid(), self.number)


def test_handlers_are_as_before_afterwards(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("this handler is never called")

    former = {number: signal.signal(number, own) for number in CODES}
    try:
        listener = Watching()
        train(make_recipe("train.max_steps=4"), tmp_path / "done", listener=listener)
        assert own not in listener.seen
        assert handlers() == [own, own, own]
        with pytest.raises(
            StoppedError,
            match=r"^stopped by SIGTERM after step 2; .*train\(..., .*, resume=True\)$",
        ) as caught:
            train(make_recipe(), tmp_path / "stopped", listener=Watching(signal.SIGTERM))
        assert caught.value.exit_code == 143
        assert handlers() == [own, own, own]
        with pytest.raises(DoraError):
            train(make_recipe("train.max_steps=1"), tmp_path / "refused")
        assert handlers() == [own, own, own]
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def test_other_threads_install_none(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    listener, before, failures = Watching(), handlers(), []

    def work() -> None:
        try:
            train(make_recipe("train.max_steps=4"), tmp_path / "run", listener=listener)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
    assert listener.seen == before == handlers()
    assert RunRecords(tmp_path / "run").metrics.exists()


def test_a_signal_after_the_last_step_counts(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when all is evaluated and saved, and nobody would ask again."""
    evaluate = Loop._evaluate

    def and_then(self: Loop) -> None:
        evaluate(self)
        if self.at.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_evaluate", and_then)
    with pytest.raises(StoppedError, match="after step 4;"):
        train(make_recipe("train.max_steps=4"), tmp_path / "run")
    monkeypatch.undo()
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == ["step-4"]
    train(make_recipe("train.max_steps=4"), tmp_path / "run", resume=True)
    assert RunRecords(tmp_path / "run").metrics.exists()


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """``nohup dora train ...`` relies on it."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signals.patient = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
