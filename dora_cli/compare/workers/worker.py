"""A worker: a process that loads everything once and makes one run after another."""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

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


def ready() -> Make:
    """Loads what runs need."""
    from dora_cli.training.run import train

    def make(job: Job) -> tuple[Ended, Used | None]:
        return run_job(job, train), _used()

    return make


def _used() -> Used | None:
    import torch

    if not torch.cuda.is_initialized():
        return None
    free, _ = torch.cuda.mem_get_info()
    return Used(torch.cuda.max_memory_reserved() + _CONTEXT, free)


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
        ended, used = _made(make, jobs.get())
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


def _made(make: Make, job: Job) -> tuple[Ended, Used | None]:
    try:
        return make(job)
    except Exception as error:  # a mistake of ours, which must not take the other runs with it
        traceback.print_exc()
        message = f"{job.folder}: {type(error).__name__}: {error}; this is a mistake in dora, please report it"
        return Ended("failed", message, exit_code=1), None
