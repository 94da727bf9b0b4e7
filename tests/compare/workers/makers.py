"""What stands for training in the tests of workers: functions that a worker process loads by their name.

Each run keeps a file ``tries`` in its folder, one line for each attempt at it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from dora_cli.compare.jobs import Ended, Job
from dora_cli.compare.workers.worker import Make, Used


def attempt(job: Job) -> int:
    """Notes another attempt at the run by this process; returns how many there were."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.folder / "tries", "a") as file:
        file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    return len(tries(job.folder))


def tries(folder: Path) -> list[str]:
    path = folder / "tries"
    return path.read_text().splitlines() if path.is_file() else []


def quick() -> Make:
    """Finishes at once."""

    def make(job: Job) -> tuple[Ended, Used | None]:
        attempt(job)
        return Ended("finished"), None

    return make


def measured() -> Make:
    """Finishes at once, having taken a tenth of the device."""

    def make(job: Job) -> tuple[Ended, Used | None]:
        attempt(job)
        return Ended("finished"), Used(taken=10, free=90)

    return make


def deadly() -> Make:
    """Kills its process: ``once...`` at the first attempt, ``always...`` at every one, by the signal in its name."""

    def make(job: Job) -> tuple[Ended, Used | None]:
        how, _, name = job.name.partition("-")
        first = attempt(job) == 1
        if how == "always" or (how == "once" and first):
            os.kill(os.getpid(), getattr(signal, name))
        return Ended("finished"), None

    return make


def mistaken() -> Make:
    """Has a mistake in it."""

    def make(job: Job) -> tuple[Ended, Used | None]:
        raise AssertionError(job.name)

    return make


def crowded() -> Make:
    """Runs out of memory where another run is under way; runs named ``large`` do in any case."""

    def make(job: Job) -> tuple[Ended, Used | None]:
        attempt(job)
        marker = job.folder.parent / f"running-{os.getpid()}"
        marker.touch()
        try:
            time.sleep(0.3)
            short = job.name == "large" or len(list(job.folder.parent.glob("running-*"))) > 1
        finally:
            marker.unlink()
        return (Ended("failed", "memory", exit_code=2, out_of_memory=True) if short else Ended("finished")), None

    return make
