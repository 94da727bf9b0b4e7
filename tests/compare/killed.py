"""An experiment that is killed in one of its runs, in a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dora_cli.compare.plan import Plan
from dora_cli.compare.run import compare
from dora_cli.recipe import Recipe
from dora_cli.training.listener import SilentListener
from dora_cli.training.run import train
from tests.commands.conftest import environment
from tests.compare.fakes import FakePool, Told
from tests.processes import begin


class _Dies(SilentListener):
    def __init__(self, step: int) -> None:
        self._step = step

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def make_until_killed(folder: Path, file: str, output: Path, run: int, step: int, *, resume: bool) -> None:
    """Makes the experiment in `file`, a path from `folder`, in this process, which was just forked for it.

    Args:
        run: counts from 1 the runs that this process makes.
        step: the optimiser step after which it is killed, 0 before the run, -1 after its end, before anybody has been
            told.
    """
    begin(environment())
    os.chdir(folder)
    count = 0

    def dies(recipe: Recipe, folder: Path, *, resume: bool, overwrite: bool) -> None:
        nonlocal count
        count += 1
        if count == run and step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        listener = _Dies(step) if count == run and step > 0 else None
        train(recipe, folder, resume=resume, overwrite=overwrite, listener=listener)
        if count == run:
            os.kill(os.getpid(), signal.SIGKILL)

    compare(Plan.of(Path(file)), output, lambda: FakePool(dies, 2), Told(), resume=resume)
