"""What a run computes on: device, precision, processes and threads together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dora_cli.machine.devices import check_gpus, make_accelerator, resolve_device, resolve_precision
from dora_cli.machine.launched import is_launched
from dora_cli.machine.seeds import set_deterministic
from dora_cli.machine.threads import most_threads
from dora_cli.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Ground:
    """Where a recipe is computed in this process.

    Attributes:
        accelerator: its device and its processes.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        most_threads: what ``train.threads: auto`` may take, asked before anything has changed PyTorch's own number.
    """

    accelerator: Accelerator
    precision: str
    most_threads: int

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def processes(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process


def take_ground(recipe: Recipe) -> Ground:
    """Settles on what `recipe` asks for, and has PyTorch compute deterministically if it asks for that.

    Raises:
        DeviceError, RecipeError: this machine does not have it.
    """
    device = resolve_device(recipe.train.device)
    if is_launched():  # other launchers may show each process a GPU of its own
        check_gpus(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    precision = resolve_precision(recipe.train.precision, device, recipe.model.dtype)
    set_deterministic(recipe.train.deterministic)
    most = most_threads()
    return Ground(make_accelerator(device, precision), precision, most)
