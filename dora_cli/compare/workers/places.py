"""Where the workers of this machine compute, and how many runs fit there at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dora_cli.compare.workers.worker import Used
from dora_cli.machine.devices import resolve_device
from dora_cli.machine.threads import most_threads

MOST = 8
"""Runs at once on one CUDA device, if nobody says how many: a short run's kernels fill a fraction of it, and more
processes than so mostly wait for each other.
"""
_MARGIN = 0.9  # of the free memory: runs differ, and so do the allocator's gaps


@dataclass
class Place:
    """A device, or the CPU.

    Attributes:
        visible: CUDA_VISIBLE_DEVICES of its workers; None for that of this process.
        limit: how many runs it takes at once, as far as is known now.
        most: how many it may come to take, once the memory of a run is known.
    """

    visible: str | None
    limit: int
    most: int

    def measured(self, used: Used) -> None:
        """A first run has ended and told what it took: from now on as many as fit."""
        if self.limit < self.most:
            self.limit = min(self.most, 1 + int(_MARGIN * used.free / max(used.taken, 1)))
            self.most = self.limit

    def shrink(self, running: int) -> None:
        """Memory ran out with so many runs at once: from now on one fewer."""
        self.limit = self.most = max(1, min(self.limit, running) - 1)


def find_places(device: str, jobs: int | None, environment: Mapping[str, str] = os.environ) -> list[Place]:
    """The places of this machine for runs on `device`.

    Args:
        device: ``train.device`` of the runs.
        jobs: runs at once, in all; None for as many as this machine is good for: one for each core of the CPU, and on
            every CUDA device one until its memory is known.

    Raises:
        DeviceError: this machine does not have the device.
    """
    import torch

    found = resolve_device(device)
    if found.type == "cpu":
        number = jobs or most_threads()
        return [Place(None, number, number)]
    if found.type != "cuda":
        return [Place(None, jobs or 1, jobs or 1)]
    if found.index is not None:  # the recipe has chosen one
        visible: list[str | None] = [None]
    else:
        count = torch.cuda.device_count()
        named = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        visible = [name.strip() for name in named][:count] if named != [""] else [str(index) for index in range(count)]
    number = len(visible)
    if jobs is not None:
        shares = [jobs // number + (index < jobs % number) for index in range(number)]
        return [Place(name, share, share) for name, share in zip(visible, shares, strict=True) if share]
    # a run keeps its process busy, and the device's driver some of another core
    most = max(1, min(MOST, most_threads() // (2 * number)))
    return [Place(name, 1, most) for name in visible]
