"""The order of an epoch: which examples make up each optimiser step, and which process sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_MEGABATCH = 50
"""Optimiser steps whose examples are sorted together when grouping by length: enough to save padding, few enough to
stay random.
"""


@dataclass(frozen=True)
class Group:
    """One process's part of one optimiser step.

    Attributes:
        micro_batches: the indices of each forward pass of this process; may be empty in an epoch's last, smaller step.
        units: loss units of the whole step, over all processes; the step's summed loss is divided by this.
        examples: examples of the whole step, over all processes.
    """

    micro_batches: list[Indices]
    units: int
    examples: int


def steps_per_epoch(examples: int, global_batch: int) -> int:
    """Optimiser steps of one epoch; the last one may be smaller than `global_batch` examples."""
    assert examples >= 0
    assert global_batch > 0
    return -(-examples // global_batch)


def plan_epoch(
    lengths: npt.NDArray[np.integer],
    units: npt.NDArray[np.integer],
    *,
    seed: int,
    epoch: int,
    micro_batch: int,
    accumulation: int,
    processes: int = 1,
    rank: int = 0,
    group_by_length: bool = False,
) -> Iterator[Group]:
    """The optimiser steps of one epoch, as one process sees them.

    Every example occurs once. The examples of step `s` depend on `seed`, `epoch` and the global batch
    ``micro_batch * accumulation * processes`` only, not on how it is made up; the last step takes what is left. Within
    a step, micro-batches are dealt to the processes in turn.

    Args:
        lengths: tokens of each example, ``(N,)``.
        units: loss units of each example, ``(N,)``.
        seed: the run's seed, 0 or more.
        epoch: number of the epoch, 0 or more.
        micro_batch: examples of one forward pass of one process.
        accumulation: forward passes of one process per optimiser step.
        processes: how many processes train together.
        rank: which of them this one is.
        group_by_length: put examples of similar length into the same optimiser step, and within it into the same
            micro-batch.
    """
    assert len(lengths) == len(units)
    assert min(micro_batch, accumulation, processes) > 0
    assert 0 <= rank < processes
    global_batch = micro_batch * accumulation * processes
    order = np.random.default_rng([seed, epoch])
    steps = (
        _by_length(lengths, global_batch, order) if group_by_length else _shuffled(len(lengths), global_batch, order)
    )
    return _deal(steps, units, micro_batch, processes, rank)


def _shuffled(examples: int, global_batch: int, order: np.random.Generator) -> list[Indices]:
    permutation = order.permutation(examples)
    return [permutation[i : i + global_batch] for i in range(0, examples, global_batch)]


def _by_length(lengths: npt.NDArray[np.integer], global_batch: int, order: np.random.Generator) -> list[Indices]:
    permutation = order.permutation(len(lengths))
    full = len(lengths) - len(lengths) % global_batch
    steps: list[Indices] = []
    for start in range(0, full, _MEGABATCH * global_batch):
        megabatch = permutation[start : min(start + _MEGABATCH * global_batch, full)]
        # Stable: examples of equal length stay in their random order.
        megabatch = megabatch[np.argsort(lengths[megabatch], kind="stable")]
        steps += [megabatch[i : i + global_batch] for i in range(0, len(megabatch), global_batch)]
    steps = [steps[i] for i in order.permutation(len(steps))]
    # The smaller step holds random examples, not the shortest or longest, and comes last, as without grouping.
    rest = permutation[full:]
    return [*steps, rest[np.argsort(lengths[rest], kind="stable")]] if len(rest) else steps


def _deal(
    steps: list[Indices], units: npt.NDArray[np.integer], micro_batch: int, processes: int, rank: int
) -> Iterator[Group]:
    for step in steps:
        micro_batches = [step[i : i + micro_batch] for i in range(0, len(step), micro_batch)]
        yield Group(micro_batches[rank::processes], int(units[step].sum()), len(step))
