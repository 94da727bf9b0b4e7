"""Signals to the process that wants the runs, and its sudden end: nothing is lost and nobody is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dora_cli.compare.jobs import Job
from dora_cli.compare.workers.worker import ready, serve
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from tests.patience import PATIENCE
from tests.processes import CONTEXT, end_of
from tests.training.conftest import MakeRecipe

pytestmark = pytest.mark.slow


def await_(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def hold(connection: Connection, job: Job) -> None:
    """What wants a run made, and holds the other end: a process of its own."""
    connection.send(job)
    connection.recv()


def test_a_worker_whose_parent_is_gone_saves_what_it_is_at(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A signal to the whole is in tests/compare/test_run.py."""
    recipe = make_recipe("train.epochs=1", "train.max_steps=2000", "data.max_train_samples=94", "train.threads=1")
    run = tmp_path / "run"
    ours, theirs = CONTEXT.Pipe()
    worker = CONTEXT.Process(target=serve, args=(theirs, None, ready), daemon=True)
    worker.start()
    parent = CONTEXT.Process(target=hold, args=(ours, Job("run", run, recipe)), daemon=True)
    parent.start()
    for end in (ours, theirs):  # each is held by one process alone
        end.close()
    await_(lambda: (run / "log.jsonl").exists() and bool((run / "log.jsonl").read_text()))
    parent.kill()
    end_of(parent)
    assert end_of(worker) == 0
    assert checkpoints_of(RunRecords(run))
    assert not RunRecords(run).metrics.exists()  # it came early enough
