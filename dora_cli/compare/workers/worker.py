"""A worker: a process that loads everything once and makes one run after another."""

from __future__ import annotations

import gc
import importlib
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from dora_cli.compare.jobs import Ended, Job, run_job

_CONTEXT = 1 << 30
"""Bytes that a process takes on a CUDA device beside what PyTorch's allocator knows of: its context, its kernels and
its graphs.
"""


@dataclass(frozen=True)
class Used:
    """The memory of a CUDA device after a run.

    Attributes:
        taken: bytes that the run's process took at the most.
        free: bytes that are left beside that process.
    """

    taken: int
    free: int


Make = Callable[[Job], tuple[Ended, Used | None]]
"""Makes a run; the second is None where it took no CUDA device."""


_LIBRARIES = (
    "accelerate",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "sklearn.metrics",
    "scipy.stats",
)
"""What the first run would wait for."""


def ready() -> Make:
    """Loads what runs need."""
    from dora_cli.assembly.warm import Warm
    from dora_cli.training.run import train

    for name in _LIBRARIES:
        with suppress(Exception):  # a run that needs it says what is wrong
            importlib.import_module(name)
    make_run = partial(train, warm=Warm())

    def make(job: Job) -> tuple[Ended, Used | None]:
        return run_job(job, make_run), _cleared()

    return make


def _cleared() -> Used | None:
    """Frees what the run has left, models above all, which hang in cycles; and what it had taken of a CUDA device."""
    import torch

    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else None
    gc.collect()
    if peak is None:
        return None
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return Used(peak + _CONTEXT, free + torch.cuda.memory_reserved() - peak)


def serve(connection: Connection, visible: str | None, load: Callable[[], Make]) -> None:
    """What a worker process does: it makes the runs that come through `connection`, and answers how each ended.

    A signal stops and saves the run, and ends the worker; so does the end of the process at the other end, however that
    came about.

    Args:
        visible: CUDA_VISIBLE_DEVICES; None to leave it.
        load: called once; what it gives makes the runs.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C and a terminal's end are for the process at the other end, which then stops this one
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its neighbours use the other cores
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, jobs), daemon=True).start()
    make = load()
    while True:
        ended, used = made(make, jobs.get())
        try:
            connection.send((ended, used))
        except OSError:  # nobody is there any more
            return
        if ended.outcome == "stopped":
            return


def _listen(connection: Connection, jobs: queue.SimpleQueue[Job]) -> None:
    """Takes jobs, until there is nobody at the other end: then the run under way is stopped as by a signal."""
    while True:
        try:
            jobs.put(connection.recv())
        except (EOFError, OSError):
            break
    os.kill(os.getpid(), signal.SIGTERM)


def made(make: Make, job: Job) -> tuple[Ended, Used | None]:
    """Makes the run; a mistake of ours is told as its end, and must not take the other runs with it."""
    try:
        return make(job)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = (
            f"{job.folder}: {type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno}); this "
            "is a mistake in dora, please report it"
        )
        return Ended("failed", message, exit_code=1), None
