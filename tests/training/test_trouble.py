"""Machines in trouble: full and read-only disks, too little memory, two runs in one folder, clocks that go back."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from dora_cli import evaluate, train, train_seeds
from dora_cli.assembly.weights import load_weights
from dora_cli.errors import OutOfMemoryError, OutputError
from dora_cli.library.prediction import predict_saved
from dora_cli.recipe import Recipe, dump_recipe
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import newest_checkpoint
from dora_cli.training.listener import EvalLog, SilentListener
from tests.commands.conftest import ROOT, contents, dora
from tests.runs.test_resume import SAVES, Cut, PowerCutError, Runs, assert_equal_runs, cut, runs, straight
from tests.training.conftest import MakeRecipe
from tests.training.test_generation import models, recipe_of, tokenizer
from tests.training.test_run import largest_difference, read

__all__ = ["models", "runs", "straight", "tokenizer"]  # fixtures

Straight = Callable[[Recipe], Path]

# A full disk ----------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.folder)], check=True, capture_output=True)

    @property
    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, left: int = 0) -> None:
        with (self.folder / "filler").open("wb") as file:
            file.write(bytes(max(self.free - left, 0)))

    def clear(self) -> None:
        (self.folder / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounted where that is allowed (to root, in most containers); other machines skip the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def whole(run: Path) -> int:
    """The step of the newest checkpoint, which must be whole, as must be the selected weights."""
    found = newest_checkpoint(RunRecords(run))
    assert found.skipped == []
    if (run / "adapter").exists():
        load_weights(run / "adapter")
    assert [path.name for path in run.rglob("*") if path.name.endswith((".tmp", ".partial"))] == []
    return int(found.snapshot.progress["at"]["step"])


def test_a_disk_that_fills_up_with_checkpoints(
    make_recipe: MakeRecipe, disk: Disk, straight: Straight, tmp_path: Path
) -> None:
    """All are kept, so after some of them nothing more fits."""
    recipe = make_recipe(*SAVES, "save.keep=50")
    expected = straight(recipe)
    size = sum(path.stat().st_size for path in (expected / "checkpoints" / "step-13").iterdir())
    disk.resize(13 * size // 1024)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    run = disk.folder / "run"
    done = dora("train", tmp_path / "recipe.yaml", "--output", run)
    assert done.code == 2
    assert done.err.count("dora: error:") == 1
    assert "Traceback" not in done.err
    assert FULL in done.err
    assert 3 < whole(run) < 24
    assert dora("train", tmp_path / "recipe.yaml", "--output", run, "--resume").code == 2, "still full"
    disk.resize(64 * 1024)
    assert dora("train", tmp_path / "recipe.yaml", "--output", run, "--resume").code == 0
    assert_equal_runs(expected, run)


FULL = os.strerror(errno.ENOSPC)


class At(SilentListener):
    """Does something at the beginning of a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step == self.step:
            self.action()


@pytest.mark.parametrize("left", [0, 20_480])
def test_a_disk_that_is_full_at_once(make_recipe: MakeRecipe, disk: Disk, runs: Runs, left: int) -> None:
    """With so many bytes left, one file or another of the next checkpoint does not fit."""
    recipe = make_recipe(*SAVES)
    run = disk.folder / "run"
    runs.cut(recipe, run, step=10)
    with pytest.raises(OutputError, match=rf"{run}.*{FULL}"):
        train(recipe, run, resume=True, listener=At(10, lambda: disk.fill(left)))
    assert whole(run) in (9, 10)
    disk.clear()
    train(recipe, run, resume=True)
    assert_equal_runs(runs.straight(recipe), run)


def test_a_log_that_finds_no_room(make_recipe: MakeRecipe, disk: Disk, straight: Straight) -> None:
    """A line of the log is cut in two by the end of the disk: step 10 is saved, and the log is longer than a page
    before step 20 is.
    """
    recipe = make_recipe(
        "data.max_train_samples=48", "train.batch_size=4", "train.log_every=1", "save.every_steps=10", "train.epochs=2"
    )
    run = disk.folder / "run"
    with pytest.raises(OutputError, match=rf"log\.jsonl: {FULL}"):
        train(recipe, run, listener=At(11, disk.fill))
    assert (run / "log.jsonl").read_bytes()[-1:] != b"\n"
    assert whole(run) == 10
    disk.clear()
    train(recipe, run, resume=True)
    assert_equal_runs(straight(recipe), run)


class Trouble:
    """Makes the system refuse to write one file of a run: ``sync`` it to the disk, or ``open`` it or make a folder at
    all.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def full(self, part: str, number: int = errno.ENOSPC) -> None:
        """From now on the disk has no room for files whose path ends in `part`."""
        plain = os.fsync

        def fsync(handle: int) -> None:
            if os.readlink(f"/proc/self/fd/{handle}").endswith(part):
                raise OSError(number, os.strerror(number))
            plain(handle)

        self.monkeypatch.setattr(os, "fsync", fsync)

    def over(self) -> None:
        self.monkeypatch.undo()


@pytest.fixture
def trouble() -> Iterator[Trouble]:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    with pytest.MonkeyPatch.context() as patch:
        yield Trouble(patch)


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("log.jsonl", 0),  # with the first checkpoint: nothing is saved yet
        (".step-12.partial/manifest.json", 6),
        (".adapter.partial/manifest.json", 6),
        ("ranks.json.tmp", 12),
        ("metrics.json.tmp", 12),
    ],
)
def test_no_room_for_a_part(
    make_recipe: MakeRecipe, straight: Straight, trouble: Trouble, tmp_path: Path, part: str, step: int
) -> None:
    recipe, run = make_recipe("train.epochs=2"), tmp_path / "run"
    if part.endswith(".tmp"):
        part = f".{part.removesuffix('.tmp')}.{os.getpid()}.tmp"
    trouble.full(part)
    with pytest.raises(OutputError, match=rf"{run}.*{FULL}"):
        train(recipe, run)
    trouble.over()
    assert not (run / "metrics.json").exists()
    if not step:
        assert checkpoints_of(RunRecords(run)) == []
        train(recipe, run, overwrite=True)
    else:
        assert whole(run) == step
        train(recipe, run, resume=True)
    assert_equal_runs(straight(recipe), run)


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json"])
def test_no_room_to_begin(make_recipe: MakeRecipe, trouble: Trouble, tmp_path: Path, name: str) -> None:
    """Nothing is left that would have to be overwritten."""
    recipe, run = make_recipe("train.max_steps=6"), tmp_path / "run"
    trouble.full(f".{name}.{os.getpid()}.tmp")
    with pytest.raises(OutputError, match=rf"{name}: {FULL}"):
        train(recipe, run)
    trouble.over()
    assert contents(run) == {}
    assert train(recipe, run).metrics["last"]


def test_no_room_for_predictions(models: dict[str, Path], trouble: Trouble, tmp_path: Path) -> None:
    recipe = recipe_of(models["gpt2"], "train.max_steps=6")
    trouble.full(f".predictions.jsonl.{os.getpid()}.tmp")
    with pytest.raises(OutputError, match=rf"predictions\.jsonl: {FULL}"):
        train(recipe, tmp_path / "run")
    trouble.over()
    train(recipe, tmp_path / "run", resume=True)
    train(recipe, tmp_path / "straight")
    for name in ("predictions.jsonl", "ranks.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_folder_that_becomes_read_only(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = make_recipe(*SAVES), tmp_path / "run"
    runs.cut(recipe, run, step=13)
    plain = Path.mkdir

    def refused(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == ".step-15.partial":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        plain(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        with pytest.raises(
            OutputError,
            match=rf"step-15: {os.strerror(errno.EROFS)}; .*--resume$",
        ):
            train(recipe, run, resume=True)
    assert whole(run) == 14
    train(recipe, run, resume=True)
    assert_equal_runs(runs.straight(recipe), run)


def test_a_first_checkpoint_that_finds_no_room(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the message says to do works."""
    recipe, run = make_recipe("train.epochs=2"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        with pytest.raises(
            OutputError,
            match=rf"step-6: {os.strerror(errno.ENOSPC)}; .*--overwrite$",
        ):
            train(recipe, run)
    train(recipe, run, overwrite=True)


@pytest.mark.parametrize("how", ["new", "overwrite", "resume"])
def test_a_place_that_takes_no_checkpoint(
    make_recipe: MakeRecipe, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Tried before anything is loaded where the folder is there already: nothing is trained, and nothing replaced."""
    run = tmp_path / "run"
    recipe = make_recipe("train.max_steps=6", "train.lr_warmup_fraction=0")
    if how != "new":
        shutil.copytree(straight(recipe), run)
        if how == "resume":
            (run / "metrics.json").unlink()
    before = contents(run)
    plain = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.is_dir() and path.parent == (run if how == "new" else run / "checkpoints"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return plain(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        if how != "new":
            patch.setattr("dora_cli.assembly.warm.Warm.load_data", Mock(side_effect=AssertionError("loaded")))
        with pytest.raises(OutputError, match=rf"--output {run} .*{os.strerror(errno.EPERM)}"):
            train(recipe, run, overwrite=how == "overwrite", resume=how == "resume")
    assert contents(run) == before
    assert list(tmp_path.rglob(".*")) == []
    train(recipe, run, overwrite=how == "overwrite", resume=how == "resume")


# Too little memory ----------------------------------------------------------------------------------------------------

SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 9 bytes"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
)


def _fails(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, training: bool, after: int = 3) -> None:
    """The model finds no memory in its forward pass number `after` of that kind."""
    from transformers import BertModel

    plain, seen = BertModel.forward, itertools.count(1)

    def forward(self: BertModel, *arguments: Any, **options: Any) -> Any:
        if self.training is training and next(seen) >= after:
            raise error
        return plain(self, *arguments, **options)

    monkeypatch.setattr(BertModel, "forward", forward)


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: f"{type(error).__name__} {str(error)[:12]}")
def test_no_memory_to_train(
    make_recipe: MakeRecipe, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    recipe, run = make_recipe("save.every_steps=1", "train.max_steps=6", "train.lr_warmup_fraction=0"), tmp_path / "run"
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    with monkeypatch.context() as patch:
        _fails(patch, error, training=True)
        done = dora("train", tmp_path / "recipe.yaml", "--output", run)
    assert done.code == 2
    assert all(
        key in done.err for key in ("train.batch_size 16", "train.batch_size=8", "train.gradient_accumulation=2")
    )
    assert "Traceback" not in done.err
    assert whole(run) == 2
    train(recipe, run, resume=True)
    assert_equal_runs(straight(recipe), run)


def test_no_memory_for_the_rank(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step and in one."""
    for after, training in ((1, False), (2, True)):
        with monkeypatch.context() as patch:
            _fails(patch, MemoryError(), training=training, after=after)
            with pytest.raises(OutOfMemoryError, match=r"method\.start_rank \(now 64\).* train\.batch_size=8"):
                train(make_recipe("method.start_rank=64"), tmp_path / f"run-{after}")


def test_no_memory_to_evaluate(
    make_recipe: MakeRecipe, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second evaluation of a run, which goes on with a smaller batch then; and in `dora eval`."""
    recipe, run, error = make_recipe("train.epochs=2"), tmp_path / "run", MemoryError()
    with monkeypatch.context() as patch:
        # before it starts, two batches each of training and evaluation are tried
        _fails(patch, error, training=False, after=4 + 2)
        with pytest.raises(OutOfMemoryError, match=r"eval\.batch_size 64;"):
            train(recipe, run)
    assert whole(run) == 6
    train(make_recipe("train.epochs=2", "eval.batch_size=8"), run, resume=True)
    last = "checkpoints/step-12"
    assert largest_difference(run / last, straight(recipe) / last) == 0
    with monkeypatch.context() as patch:
        _fails(patch, error, training=False, after=1)
        with pytest.raises(OutOfMemoryError, match=r"eval\.batch_size 8;"):
            evaluate(run)


def test_no_memory_to_decode(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the very end of a run: what was trained is not lost."""
    import dora_cli.library.prediction
    from dora_cli.evaluation import measuring

    def short(*_: Any, **__: Any) -> None:
        raise MemoryError

    recipe, run = (
        recipe_of(models["gpt2"], "train.max_steps=6", "decode.epoch_samples=0", "decode.batch_size=3"),
        tmp_path / "run",
    )
    says = r"in decoding with decode\.batch_size {} and decode\.beams"
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "decode", short)
        with pytest.raises(OutOfMemoryError, match=says.format(3)):
            train(recipe, run)
    assert whole(run) == 6
    train(
        recipe_of(models["gpt2"], "train.max_steps=6", "decode.epoch_samples=0", "decode.batch_size=2"),
        run,
        resume=True,
    )
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "decode", short)
        patch.setattr(dora_cli.library.prediction, "decode", short)
        with pytest.raises(OutOfMemoryError, match=says.format(2)):
            evaluate(run)
        with pytest.raises(OutOfMemoryError, match=says.format(2)):
            predict_saved(run)


def test_no_memory_to_load(
    make_recipe: MakeRecipe, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora_cli.models import loading

    def short(*_: object) -> None:
        raise MemoryError

    recipe = make_recipe("train.max_steps=6")
    run = straight(recipe)
    monkeypatch.setattr(loading, "_load_weights", short)
    with pytest.raises(OutOfMemoryError, match=r"loading .* model\.dtype=bfloat16 \(now float32\)"):
        train(recipe, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(OutOfMemoryError, match=r"loading .* model\.dtype=bfloat16 "):
        evaluate(run)


# Two runs in one folder -----------------------------------------------------------------------------------------------


class _Takes(SilentListener):
    """Takes something away from a run at one of its moments."""

    def __init__(self, moment: str, take: Callable[[], None]) -> None:
        self._moment, self._take = moment, take

    def tick(self, step: int, phase: str, budget: int) -> None:
        if self._moment == f"step {step}":
            self._take()

    def evaluated(self, log: EvalLog) -> None:
        if self._moment == f"epoch {log.epoch}":
            self._take()

    def evaluating(self, split: str, done: int, total: int) -> None:
        if self._moment == "evaluation":
            self._moment = ""
            self._take()


MOMENTS = ("step 2", "step 6", "step 9", "evaluation", "epoch 1", "epoch 2")
"""Before the first logged step, at an epoch's end, between two saves, and while evaluations run and after them, the
last one included.
"""


@pytest.mark.parametrize(
    ("moment", "how"),
    [*((moment, "removed") for moment in MOMENTS), *(("step 9", how) for how in ("moved", "replaced", "emptied"))],
)
def test_a_run_folder_that_is_taken_away_ends_the_run_and_is_not_made_anew(
    make_recipe: MakeRecipe, tmp_path: Path, moment: str, how: str
) -> None:
    run, away = tmp_path / "run", tmp_path / "away"

    def take() -> None:
        if how == "emptied":
            for path in run.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return
        run.rename(away)
        if how == "removed":
            shutil.rmtree(away)
        if how == "replaced":
            run.mkdir()

    with pytest.raises(OutputError) as raised:
        train(make_recipe("train.epochs=2"), run, listener=_Takes(moment, take))
    assert str(run) in str(raised.value)
    if how in ("removed", "moved"):
        assert not run.exists()
    else:
        assert list(run.iterdir()) == []
    assert not (away / "metrics.json").exists()


@pytest.mark.parametrize("part", ["log.jsonl", "recipe.yaml", "environment.json", "adapter"])
def test_a_part_of_a_run_that_is_taken_away_is_named(make_recipe: MakeRecipe, tmp_path: Path, part: str) -> None:
    """After the last step of the last epoch but one the rest goes on as ever, up to the next time that the part would
    be needed.
    """
    run = tmp_path / "run"

    def take() -> None:
        path = run / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(OutputError, match=re.escape(part)):
        train(make_recipe("train.epochs=2", "eval.select=best"), run, listener=_Takes("epoch 2", take))
    assert not (run / part).exists()
    assert not (run / "metrics.json").exists()


HOLDER = """
import sys
from pathlib import Path
from dora_cli.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts another process that holds the lock of a run folder."""
    pytest.importorskip("fcntl")
    started = []

    def start(folder: Path) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", HOLDER, str(folder)], subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_is_refused_until_the_first_is_dead(
    make_recipe: MakeRecipe,
    runs: Runs,
    tmp_path: Path,
    hold: Callable[[Path], subprocess.Popen[str]],
) -> None:
    recipe, run = make_recipe(*SAVES), tmp_path / "run"
    runs.cut(recipe, run, step=9)
    # a crash between the two renames of a save: fixing it is for whoever holds the lock
    (run / "checkpoints" / "step-8").rename(run / "checkpoints" / ".step-8.old")
    other = hold(run)
    before = contents(run)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match=rf"^--output {run} "):
            train(recipe, run, **options)
        assert contents(run) == before
    other.send_signal(signal.SIGKILL)
    other.wait()
    train(recipe, run, resume=True)
    assert_equal_runs(runs.straight(recipe), run)


def test_seeds_are_not_replaced_while_one_of_them_runs(
    make_recipe: MakeRecipe, tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    recipe, runs = make_recipe("train.max_steps=6"), tmp_path / "runs"
    train_seeds(recipe, runs, [1, 2])
    other = hold(runs / "seed-2")
    before = contents(runs)
    with pytest.raises(OutputError, match=r"^--output \S*/seed-2 "):
        train_seeds(recipe, runs, [3], overwrite=True)
    assert {name: content for name, content in contents(runs).items() if not name.startswith("seed-3")} == before
    other.kill()
    other.wait()
    assert train_seeds(recipe, runs, [3], overwrite=True)["seeds"] == [3]


def test_the_lock_is_given_back(
    make_recipe: MakeRecipe, tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """After success, after an error, and to a run that only finds its work done."""
    recipe, run = make_recipe("train.max_steps=6", "save.every_steps=1"), tmp_path / "run"
    with pytest.raises(PowerCutError):
        train(recipe, run, listener=Cut(step=3))
    other = hold(run)
    other.kill()
    other.wait()
    train(recipe, run, resume=True)
    train(recipe, run, resume=True)
    hold(run)


# Clocks ---------------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back(
    make_recipe: MakeRecipe, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock shows an hour less, and the files of a copied run have the times of their copying, newest
    first.
    """
    recipe, run = make_recipe(*SAVES), tmp_path / "run"
    hours = itertools.count()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    cut(recipe, run, step=15)
    for age, folder in enumerate(checkpoints_of(RunRecords(run))):
        os.utime(folder, (now - 1000 * age, now - 1000 * age))
    shutil.copytree(run, tmp_path / "copy")
    notes = Cut()
    train(recipe, tmp_path / "copy", resume=True, listener=notes)
    assert_equal_runs(straight(recipe), tmp_path / "copy")
    timing = read(tmp_path / "copy" / "metrics.json")["timing"]
    assert all(value >= 0 for value in timing.values())


def test_minutes_between_checkpoints_are_not_the_clock_of_the_wall(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty seconds pass from one look at the steady clock to the next, while the other one jumps by a year."""
    steady, years = itertools.count(0.0, 30.0), itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(steady))
    monkeypatch.setattr(time, "time", lambda: 3e7 * (-1) ** next(years))
    cut(make_recipe("save.every_minutes=2", "save.keep=9"), tmp_path / "run", step=6)
    # looks: at the start 0, then one a step; the fourth is 120 s after it. A look when saved starts the next two
    # minutes
    assert [path.name for path in checkpoints_of(RunRecords(tmp_path / "run"))] == ["step-4"]
