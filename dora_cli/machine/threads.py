"""How many threads compute on the CPU: decided by the model, the batch and the cores, never by the load of the moment.

Sums are split over threads, so two numbers of threads give different last digits. A run therefore decides once, writes
its number into environment.json and keeps it: when it is resumed, also where there are other cores, and when it is
evaluated or exported.

Only the threads within one operation count. PyTorch's other pool, between operations, works for scripted and forked
code alone, of which a run has none, and the backward pass on the CPU runs in the thread that calls it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dora_cli.machine.cores import QUOTA, cores_of_quota, usable_cores
from dora_cli.wording import plural

WORK_PER_THREAD = 2**27
"""Multiplications of the largest matrix product in a block, for `data.max_length` tokens in every example, that are
worth a thread.

They take one core 2 to 5 ms; texts are mostly a quarter of the length that is allowed, so a thread's real share is
about 1 ms, and waking a sleeping thread takes 0.05 to 0.1 ms of it. The other operations of a step are smaller by far.
The built-in models (width 96, 113 million) so take one thread, MiniLM (width 384) at 16 x 128 tokens takes up to 9, and
RoBERTa-base (4,800 million) all the cores there mostly are."""


@dataclass(frozen=True)
class Threads:
    """A number of threads and, in words, where it comes from."""

    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.count} ({self.reason})"


def most_threads(environment: Mapping[str, str] = os.environ, quota: Path = QUOTA, processes: int | None = None) -> int:
    """The most that ``auto`` takes: what PyTorch would take by itself, less where this process shares cores or has a
    quota of them.

    PyTorch's own number is that of the physical cores this process may use, or what OMP_NUM_THREADS or
    `torch.set_num_threads` says.

    Args:
        processes: those that share the cores of this machine; None for what their launcher says.
    """
    count, sharing = torch.get_num_threads(), _sharing(environment, processes)
    if "OMP_NUM_THREADS" not in environment:  # torchrun and Accelerate mostly set it, for each process
        count //= sharing
    share = cores_of_quota(quota)
    return max(1, count if share is None else min(count, share // sharing))


def _sharing(environment: Mapping[str, str], processes: int | None) -> int:
    """The processes that share the cores of this machine."""
    return processes or int(environment.get("LOCAL_WORLD_SIZE", "1"))


def _cores_here(quota: Path) -> int:
    """Those that this process may use, or as many as a container may keep busy."""
    share = cores_of_quota(quota)
    return usable_cores() if share is None else min(usable_cores(), share)


def own_cores(environment: Mapping[str, str] = os.environ, quota: Path = QUOTA) -> int:
    """This process's share of the cores, for work beside the arithmetic."""
    return max(1, _cores_here(quota) // _sharing(environment, None))


def worth_threads(work: int) -> int:
    """How many threads a largest product of `work` multiplications keeps busy."""
    return max(1, work // WORK_PER_THREAD)


def recorded_threads(environment: Mapping[str, Any]) -> int:
    """The number that a run wrote into environment.json.

    The oldest runs wrote none and took what PyTorch takes by itself; so do they still.
    """
    count = environment.get("cpu_threads")
    return torch.get_num_threads() if count is None else int(count)


def note_on_cores(count: int, most: int) -> str | None:
    """What is to be said of a run that keeps more threads than there are cores; None where it does not."""
    if count <= most:
        return None
    return (
        f"the run began with {plural(count, 'thread')} and keeps them, as their number decides digits, though "
        f"{most} would fit here"
    )


def note_on_threads(
    wanted: int | str,
    environment: Mapping[str, str] = os.environ,
    quota: Path = QUOTA,
    processes: int | None = None,
) -> str | None:
    """What is to be said of a recipe that asks for more threads than there are cores; None where it does not.

    Args:
        wanted: ``train.threads``: a number or ``auto``, which never takes too many.
        processes: as for `most_threads`.
    """
    cores, sharing = _cores_here(quota), _sharing(environment, processes)
    most = max(1, cores // sharing)
    if not isinstance(wanted, int) or wanted <= most:
        return None
    each = "" if sharing == 1 else f" in each of {sharing} processes"
    fix = "auto" if most == 1 else f"auto or at most {most}"
    return (
        f"train.threads is {wanted:,}{each}, but there {'is' if cores == 1 else 'are'} {plural(cores, 'core')} to use "
        f"here, and threads without one make a run slower; set train.threads to {fix}"
    )


@contextmanager
def own_threads() -> Iterator[None]:
    """Around what sets the number of threads: afterwards it is the caller's again. Also a decorator."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_threads(count: int) -> None:
    """Computes with `count` threads from here on; within `own_threads`."""
    torch.set_num_threads(count)
