"""One run of an experiment: what it is, doing it, and what it came to. The same in this process and in a worker's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dora_cli.errors import CheckpointError, DivergedError, DoraError, OutOfMemoryError, OutputError, StoppedError
from dora_cli.recipe import Recipe
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.left_open import read_recipe
from dora_cli.runs.lock import RunLock
from dora_cli.runs.records.diverged import DivergedRecord
from dora_cli.runs.resume import changed_keys
from dora_cli.runs.run_folder import RunRecords

PATIENCE = 30.0
"""Seconds to wait for a run's folder that another process still holds."""


@dataclass(frozen=True)
class Job:
    """A run that is wanted.

    Attributes:
        name: of the run in the experiment; no two share one.
        folder: absolute.
        recipe: resolved, with local paths made absolute.
    """

    name: str
    folder: Path
    recipe: Recipe


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        outcome: ``finished`` and ``diverged`` are results; ``stopped`` by a signal and ``failed`` are none.
        message: what to tell the user of the last two.
        exit_code: the program's own, of the last two.
        seconds: it took, here and now.
        out_of_memory: whether it failed for lack of memory, which fewer runs at once may help.
    """

    outcome: Literal["finished", "diverged", "stopped", "failed"]
    message: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    out_of_memory: bool = False


class Pool(Protocol):
    """Where runs are made, several at once."""

    @property
    def free(self) -> int:
        """How many more runs it would start at once."""

    def submit(self, job: Job) -> None:
        """Starts a run; one is free."""

    def wait(self) -> list[tuple[Job, Ended]]:
        """Waits until runs have ended, and gives them; one is under way."""

    def close(self) -> None:
        """Ends the workers; runs under way are stopped and saved, as by a signal."""


def found(job: Job) -> Literal["finished", "diverged"] | None:
    """What an earlier run of the same recipe in the job's folder came to; None where it has to be made, or to go on.

    Raises:
        CheckpointError: the folder holds a run of another recipe.
    """
    records = RunRecords(job.folder)
    if not records.recipe.is_file() or not records.recipe.stat().st_size:
        return None
    before = read_recipe(records.recipe)
    if changes := changed_keys(before, job.recipe) + _moved(before, job.recipe):
        raise CheckpointError(
            f"{job.folder} holds a run of another recipe than the experiment asks for now; take another --output, or "
            f"remove that folder{changes}"
        )
    if records.metrics.is_file():
        return "finished"
    return "diverged" if records.diverged.is_file() else None


def _moved(before: Recipe, now: Recipe) -> str:
    """Which base model and which data, a line each where another one is named: a run of it is another run."""
    one, two = ((recipe.model.name, recipe.data.path) for recipe in (before, now))
    keys = ("model.name", "data.path")
    return "".join(
        f"\n{key} was {then!r} and is {today!r}"
        for key, then, today in zip(keys, one, two, strict=True)
        if then != today
    )


def _await_end(folder: Path) -> None:
    """Waits for the worker of an experiment that was killed, which may still be saving the run."""
    until = time.monotonic() + PATIENCE
    while folder.is_dir() and time.monotonic() < until:
        try:
            with RunLock(folder):
                return
        except OutputError:
            time.sleep(0.2)


def run_job(job: Job, train: Callable[..., object]) -> Ended:
    """Makes the run, or goes on with it from its newest checkpoint.

    Args:
        train: `dora_cli.training.run.train`, or what stands for it.
    """
    records, began = RunRecords(job.folder), time.perf_counter()
    _await_end(job.folder)
    begun = records.recipe.is_file()
    resume = begun and records.recipe.stat().st_size > 0 and bool(checkpoints_of(records))

    def ended(outcome: Literal["finished", "diverged", "stopped", "failed"], error: DoraError | None = None) -> Ended:
        return Ended(
            outcome,
            "" if error is None else str(error),
            0 if error is None else error.exit_code,
            time.perf_counter() - began,
            isinstance(error, OutOfMemoryError),
        )

    try:
        train(job.recipe, job.folder, resume=resume, overwrite=begun and not resume)
    except DivergedError as error:
        records.write_diverged({"schema_version": 1, "message": str(error)[: DivergedRecord.LONGEST]})
        return ended("diverged")
    except StoppedError as error:
        return ended("stopped", error)
    except DoraError as error:
        return ended("failed", error)
    return ended("finished")
