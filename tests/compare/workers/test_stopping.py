"""Signals to the process that wants the runs, and its sudden end: nothing is lost and nobody is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from dora_cli.compare.jobs import Job
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from tests.compare.workers.driver import make_all
from tests.patience import PATIENCE
from tests.processes import CONTEXT, end_of
from tests.training.conftest import MakeRecipe

pytestmark = pytest.mark.slow


def await_(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def workers_of(process: BaseProcess) -> list[int]:
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


def test_a_worker_whose_parent_is_gone_saves_what_it_is_at(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A signal to the whole is in tests/compare/test_run.py."""
    recipe = make_recipe("train.epochs=1", "train.max_steps=2000", "data.max_train_samples=94", "train.threads=1")
    run = tmp_path / "run"
    process = CONTEXT.Process(target=make_all, args=([Job("run", run, recipe)],))
    process.start()
    await_(lambda: (run / "log.jsonl").exists() and bool((run / "log.jsonl").read_text()))
    (worker,) = workers_of(process)
    process.kill()
    end_of(process)
    await_(lambda: not alive(worker))
    assert checkpoints_of(RunRecords(run))
    assert not RunRecords(run).metrics.exists()  # it came early enough
