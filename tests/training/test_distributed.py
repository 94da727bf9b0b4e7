"""Two processes (gloo) against one at the same global batch: the same ranks and weights, through the freeze and
compaction.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dora_cli import dump_recipe, evaluate, train
from dora_cli.errors import ProcessError
from dora_cli.machine import launch
from dora_cli.version import __version__
from tests.commands.conftest import dora
from tests.methods.patchy import ROWS, Patchy, batch, started, train_in_two
from tests.patience import PATIENCE
from tests.processes import CONTEXT, begin, send, start
from tests.training.conftest import MakeRecipe
from tests.training.killing import Straight, Strike, Warm
from tests.training.pairs import train_recipes_in_two
from tests.training.test_run import STEPS, largest_difference, lines, read

FOR_TWO = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
# As ``accelerate launch --cpu`` does, without its configuration file.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}


def launcher(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def launch_torchs(recipe: Path, output: Path, processes: int, environment: Mapping[str, str] = ENVIRONMENT) -> None:
    command = [*launcher(processes), str(Path(__file__).with_name("distributed_run.py")), str(recipe), str(output)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


SMALL = ("data.max_train_samples=51", "data.max_eval_samples=16", "train.epochs=2")
RECIPES = {
    "compact": ("data.max_train_samples=83", "method.dem_until=end", "method.compact=true"),
    "masked": ("data.max_train_samples=83", "method.dem_until=end", "method.compact=false"),
    # fixed ranks, and factors that train at two rates
    "lora": (
        "method={name: lora, rank: 2, dropout: 0, ranks: {'*.query': 3, '*.key': 0}, learning_rate_ratio: 4}", *SMALL
    ),
    # half of what Adam knows of a key's bias is rounding, since its gradient is zero: hence the large epsilon
    "full": ("method={name: full}", *SMALL, "train.adam_eps=1.0e-4", "train.learning_rate=1.0e-3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def by_two(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of two processes, by the names of `RECIPES`."""
    folder = tmp_path_factory.mktemp("two")
    parts = ("train.batch_size=4", "train.gradient_accumulation=2")
    train_recipes_in_two({folder / name: make_recipe(*changes, *parts) for name, changes in RECIPES.items()})
    return folder


@pytest.mark.parametrize("name", ["compact", "masked"])
def test_two_processes_equal_one(by_two: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    """Global batch 16 as 2 x 4 x 2 and as 1 x 16; 83 examples leave 3 for the last step of an epoch, so that one
    process has none.
    """
    assert 83 % 16 == 3
    one, two = tmp_path / "one", by_two / name
    train(make_recipe("train.batch_size=16", *RECIPES[name]), one)
    ranks = [read(run / "ranks.json") for run in (one, two)]
    assert [layer["rank"] for layer in ranks[0]["layers"]] == [layer["rank"] for layer in ranks[1]["layers"]]
    assert ranks[0]["history"] == ranks[1]["history"]
    last = f"checkpoints/step-{STEPS}"
    assert largest_difference(one / last, two / last) < 2e-6  # fp32 sums in another order
    for first, second in zip(lines(one / "log.jsonl"), lines(two / "log.jsonl"), strict=True):
        if first["type"] == "train":
            assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)
        else:
            losses = first["metrics"].pop("loss"), second["metrics"].pop("loss")
            assert losses[0] == pytest.approx(losses[1], abs=1e-6)
            assert first["metrics"] == second["metrics"]
    assert read(two / "environment.json")["processes"] == 2
    assert evaluate(two)["metrics"] == read(two / "metrics.json")["metrics"]


@pytest.mark.parametrize("name", ["lora", "full"])
def test_two_processes_equal_one_under_other_methods(
    by_two: Path, make_recipe: MakeRecipe, tmp_path: Path, name: str
) -> None:
    train(make_recipe("train.batch_size=16", *RECIPES[name]), tmp_path / "one")
    assert largest_difference(tmp_path / "one" / "adapter", by_two / name / "adapter") < 2e-6


def test_what_one_of_two_processes_reaches_trains_in_both_and_what_none_reaches_stays(tmp_path: Path) -> None:
    """The same as in one process with the micro-batches of both."""
    pair = [CONTEXT.Process(target=train_in_two, args=(rank, str(tmp_path)), daemon=True) for rank in (0, 1)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(PATIENCE)
        assert process.exitcode == 0
    model, step = started()
    for number, rows in enumerate(ROWS, start=1):
        step(number, [batch(count) for count in rows], sum(rows), event=False)
    expected = {**model.state_dict(), "states": 4}
    assert len(step.optimizer.state) == 4  # weights and biases of two layers
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)
    assert torch.equal(model.pooler.weight, Patchy().pooler.weight)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dropout", ["0.0", "0.1"])
def test_two_captured_processes_equal_eager_ones(make_recipe: MakeRecipe, tmp_path: Path, dropout: str) -> None:
    """Passes and updates are graphs on each device, the sum over processes is not.

    A process may have no work, as above.
    """
    common = (
        f"method.dropout={dropout}", "data.max_train_samples=83", "train.batch_size=4", "train.gradient_accumulation=2",
        "train.device=cuda", "train.precision=fp32", "train.deterministic=true",
    )  # fmt: skip
    for setting in ("on", "off"):
        (tmp_path / "two.yaml").write_text(dump_recipe(make_recipe(*common, f"train.cuda_graph={setting}")))
        launch_torchs(tmp_path / "two.yaml", tmp_path / setting, 2, {"HF_HUB_OFFLINE": "1"})
        assert read(tmp_path / setting / "environment.json")["processes"] == 2
    assert largest_difference(tmp_path / "on" / "adapter", tmp_path / "off" / "adapter") < 1e-5
    assert read(tmp_path / "on" / "ranks.json")["history"] == read(tmp_path / "off" / "ranks.json")["history"]
    if dropout == "0.0":  # else every process draws masks of its own
        train(make_recipe(*common, "train.batch_size=16", "train.gradient_accumulation=1"), tmp_path / "one")
        assert largest_difference(tmp_path / "on" / "adapter", tmp_path / "one" / "adapter") < 1e-5


@pytest.fixture(scope="module")
def straight(warm: Warm, make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """A run of two processes without an interruption."""
    folder = tmp_path_factory.mktemp("straight")
    recipe = make_recipe(
        "train.batch_size=4",
        "train.gradient_accumulation=2",
        "method.dropout=0.2",
        "save.every_steps=5",
        "method.targets=['*.self.*', '*.attention.output.dense']",
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    for attempt in warm.run_together(
        "train", str(folder / "recipe.yaml"), "--output", str(folder / "run"), strikes=[None, None]
    ):
        assert attempt.code == 0, attempt.output
    return Straight(folder / "recipe.yaml", folder / "run", {}, 0.0)


def resume_together(warm: Warm, straight: Straight, run: Path) -> None:
    for attempt in warm.run_together(
        "train", str(straight.recipe), "--output", str(run), "--resume", strikes=[None, None]
    ):
        assert attempt.code == 0, attempt.output
    straight.assert_equals(run)


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")
def test_a_signal_to_one_process_stops_both_at_one_step(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    """To the first in step 7, while pruning, and to the second in step 14, after the freeze: the processes agree next
    after step 10 and after an epoch, in step 18, and every process's random state is saved.
    """
    run = tmp_path / "run"
    command = ["train", str(straight.recipe), "--output", str(run)]
    for struck, place, last in ((0, "pruning: step 7", 10), (1, "final: step 14", 18)):
        strikes = [Strike(place, numbers=(signal.SIGTERM,)) if rank == struck else None for rank in range(2)]
        attempts = warm.run_together(*command, strikes=strikes)
        assert [attempt.code for attempt in attempts] == [143, 143], [attempt.output for attempt in attempts]
        assert re.search(
            rf"^dora: .* SIGTERM .* {last}; .*: torchrun --nproc-per-node 2 -m dora_cli train ",
            attempts[0].output,
            re.MULTILINE,
        )
        assert attempts[1].output == ""
        assert [max(step_of(mark) for mark in attempt.marks) for attempt in attempts] == [last, last]
        command = [*command[:4], "--resume"]
    resume_together(warm, straight, run)


def step_of(mark: str) -> int:
    found = re.fullmatch(r".*: step (\d+)", mark)
    return int(found[1]) if found else 0


def _launcher(arguments: list[str], printed: str) -> None:
    """A process: torch's launcher, whose workers are forked from it and have everything loaded."""
    begin({**os.environ, **ENVIRONMENT})
    handle = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=0, start_method="fork",
        run_id="signals", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    )  # fmt: skip
    elastic_launch(config, _worker)(arguments)


def _worker(arguments: list[str]) -> None:
    begin(dict(os.environ))
    from dora_cli.__main__ import main

    sys.argv = ["dora", *arguments]
    main(arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_the_launcher_passes_a_signal_on(warm: Warm, straight: Straight, tmp_path: Path) -> None:
    """The launcher of torch, sent SIGTERM as a cluster does, sends it to its workers and waits for them."""
    run, printed = tmp_path / "run", tmp_path / "printed"
    arguments = ["train", str(straight.recipe), "--output", str(run)]
    process = CONTEXT.Process(target=_launcher, args=(arguments, str(printed)))
    process.start()
    try:
        limit = time.monotonic() + PATIENCE
        while not (run / "checkpoints").is_dir():
            assert process.is_alive(), printed.read_text()
            assert time.monotonic() < limit, printed.read_text()
            time.sleep(0.005)
        send(process, signal.SIGTERM)
        process.join(PATIENCE)
    finally:
        process.kill()
    (step,) = re.findall(
        r"dora: .* SIGTERM .* (\d+); .*: torchrun --nproc-per-node 2 -m dora_cli train",
        printed.read_text(),
    )
    assert (run / "checkpoints" / f"step-{step}").is_dir()
    assert int(step) % 10 == 0 or int(step) % 6 == 0
    assert not (run / "metrics.json").exists()
    resume_together(warm, straight, run)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_one_command_takes_two_gpus_as_torchs_launcher_does(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """And is refused where there are fewer, before anything is written."""
    recipe = make_recipe("data.max_train_samples=83", "train.device=cuda", "train.deterministic=true")
    (tmp_path / "two.yaml").write_text(dump_recipe(recipe))
    launch_torchs(tmp_path / "two.yaml", tmp_path / "torchs", 2, {"HF_HUB_OFFLINE": "1"})
    count = torch.cuda.device_count()
    for processes, code in ((2, 0), (count + 1, 2)):
        run = tmp_path / f"ours-{processes}"
        command = ["train", str(tmp_path / "two.yaml"), "--output", str(run), "--processes", str(processes)]
        done = subprocess.run(
            [sys.executable, "-m", "dora_cli", *command],
            env={**os.environ, **FOR_TWO}, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert run.exists() == (code == 0)
    assert largest_difference(tmp_path / "torchs" / "adapter", tmp_path / "ours-2" / "adapter") == 0
    assert read(tmp_path / "ours-2" / "environment.json")["processes"] == 2


# dora train --processes -----------------------------------------------------------------------------------------------


ATTEMPTS = 5


def interrupt(started: Sequence[_Forked]) -> None:
    """SIGINT to this process, which waits, while those that train stand still until it has come to them: else they may
    be done before.
    """
    for one in started:
        os.kill(one.pid, signal.SIGSTOP)
    until(lambda: all(stands_still(one.pid) for one in started))  # of two signals the other one would be taken first
    os.kill(os.getpid(), signal.SIGINT)
    until(lambda: all(pending(one.pid, signal.SIGINT) for one in started))
    for one in started:
        os.kill(one.pid, signal.SIGCONT)


def until(come: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not come():
        assert time.monotonic() < limit
        time.sleep(0.005)


def stands_still(process: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{process}/status").read_text()


def pending(process: int, number: int) -> bool:
    """Whether a signal waits for a process that stands still."""
    masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


class _Forked:
    """What `launch` asks of a process that it starts, of one forked from a warm one."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdout: Any, **_: Any) -> None:
        (read, write), printed = os.pipe(), None if stdout is None else stdout.fileno()
        streams = {"stdout": 1, "stderr": 2} if printed is None else {"stdout": printed, "stderr": printed}
        self._own = start(*command, cwd=Path.cwd(), environment=env, stdin=read, **streams)
        os.close(read)
        assert self._own.pid is not None
        self.stdin, self.pid = os.fdopen(write, "wb"), self._own.pid

    @property
    def returncode(self) -> int | None:
        return self._own.exitcode

    def poll(self) -> int | None:
        return self._own.exitcode

    def wait(self) -> None:
        self._own.join()

    def send_signal(self, number: int) -> None:
        send(self._own, number)

    def kill(self) -> None:
        self._own.kill()


several_cores = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


@pytest.fixture
def _hears() -> Iterator[None]:
    """What runs in the background ignores SIGINT, and so do the processes that it starts."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@several_cores
@pytest.mark.usefixtures("_hears")
def test_one_command_starts_two_stops_at_ctrl_c_and_says_how_to_go_on(
    warm: Warm,
    straight: Straight,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """They go on to the same bits as under torch's launcher, which tells them the same. Python is started as they would
    be, for another command; they are forked.
    """
    run, started, programs = tmp_path / "run", list[_Forked](), list[list[str]]()

    def popen(command: Sequence[str], **settings: Any) -> _Forked:
        end = command.index("train")
        programs.append([*command[:end]])
        started.append(_Forked(command[end:], **settings))
        return started[-1]

    def strike() -> None:
        until(lambda: over.is_set() or (run / "checkpoints").is_dir())
        with contextlib.suppress(OSError):  # they are done
            if not over.is_set():
                interrupt(started[-2:])

    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE))
    for _ in range(ATTEMPTS):
        over, striker = threading.Event(), threading.Thread(target=strike)
        striker.start()
        done = dora("train", straight.recipe, "--output", run, "--processes", 2)
        over.set()
        striker.join()
        if not (run / "metrics.json").exists():
            break
        shutil.rmtree(run)
    assert done.code == 130
    printed = capfd.readouterr()
    assert printed.out == done.out == ""
    (said,) = [line for line in printed.err.splitlines() if line.startswith("dora:")]
    found = re.fullmatch(r"dora: .* SIGINT .* (\d+); .*: dora (train .*)", said)
    assert found is not None, said
    assert (run / "checkpoints" / f"step-{found[1]}").is_dir()
    assert shlex.split(found[2]) == [
        "train", str(straight.recipe), "--processes", "2", "--output", str(run), "--resume",
    ]  # fmt: skip
    assert "Traceback" not in printed.err
    resume_together(warm, straight, run)
    version = subprocess.run([*programs[0], "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert __version__ in version.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")
def test_one_of_two_is_killed(
    warm: Warm,
    straight: Straight,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The other one ends by itself, without a word: what it lost is not what happened."""
    run, started = tmp_path / "run", list[_Forked]()

    def popen(command: Sequence[str], **settings: Any) -> _Forked:
        started.append(_Forked(command, **settings))
        return started[-1]

    def kill() -> None:
        until(lambda: (run / "checkpoints").is_dir())
        started[1].kill()

    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE))
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ProcessError) as caught:
        launch.run_together(["train", str(straight.recipe), "--output", str(run)], 2)
    killer.join()
    assert started[0].returncode
    assert "Traceback" not in capfd.readouterr().err
    assert caught.value.exit_code == 137
    resume_together(warm, straight, run)
