"""Signals to the process that wants the runs, and its sudden end: nothing is lost and nobody is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dora_cli.recipe import dump_recipe
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from tests.patience import PATIENCE
from tests.training.conftest import MakeRecipe

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


def await_(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def start(recipe: Path, runs: list[Path]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.compare.workers.driver", recipe, *runs]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Its workers."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not found.exists():
        pytest.skip("this system does not tell")
    pids = [int(pid) for pid in found.read_text().split()]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # no helper of Python's


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_whose_parent_is_gone_save_what_they_are_at(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A signal to the whole is in tests/compare/test_run.py."""
    recipe = make_recipe("train.epochs=1", "train.max_steps=2000", "data.max_train_samples=94", "train.threads=1")
    path, runs = tmp_path / "recipe.yaml", [tmp_path / "one", tmp_path / "two"]
    path.write_text(dump_recipe(recipe))
    process = start(path, runs)
    await_(lambda: all((run / "log.jsonl").exists() and (run / "log.jsonl").read_text() for run in runs))
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.communicate(timeout=PATIENCE)
    await_(lambda: not any(alive(pid) for pid in workers))
    for run in runs:
        assert checkpoints_of(RunRecords(run))
        assert not RunRecords(run).metrics.exists()  # it came early enough
