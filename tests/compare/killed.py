"""An experiment that is killed in one of its runs: ``python -m tests.compare.killed FILE OUTPUT RUN STEP [resume]``.

RUN counts from 1 the runs that this process makes; STEP is the optimiser step after which it is killed, 0 before the
run, -1 after its end, before anybody has been told.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from dora_cli.compare.plan import Plan
from dora_cli.compare.run import compare
from dora_cli.recipe import Recipe
from dora_cli.training.listener import SilentListener
from dora_cli.training.run import train
from tests.compare.fakes import FakePool, Told


class _Dies(SilentListener):
    def __init__(self, step: int) -> None:
        self._step = step

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    file, output, run, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
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

    compare(Plan.of(file), output, lambda: FakePool(dies, 2), Told(), resume="resume" in sys.argv)


if __name__ == "__main__":
    main()
