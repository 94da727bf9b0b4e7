"""Device and precision: what the recipe asks for against what the machine has."""

from __future__ import annotations

import atexit
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from dora_cli.errors import DeviceError, RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import AutocastKwargs

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, the CPU elsewhere. Raises DeviceError for a device that is absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.device(device)
    if wanted.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError(
                f"train.device is {device}, but PyTorch {torch.__version__} sees no CUDA device here; set "
                "train.device: cpu or auto"
            )
        if (wanted.index or 0) >= count:
            raise DeviceError(
                f"train.device is {device}, but this machine has {count} CUDA device(s), cuda:0 to cuda:{count - 1}; "
                "set one of them"
            )
    return wanted


def check_gpus(device: torch.device, processes: int) -> None:
    """Refuses more processes than this machine has GPUs, where each computes on one of its own. Raises DeviceError."""
    count = torch.cuda.device_count() if device.type == "cuda" else processes
    if processes > count:
        raise DeviceError(
            f"{processes} processes need a GPU each, and PyTorch {torch.__version__} sees {count} here; start {count} "
            "at most, or set train.device: cpu"
        )


def resolve_precision(precision: str, device: torch.device, dtype: str) -> str:
    """The arithmetic of a run: ``fp32``, ``bf16`` or ``fp16``.

    ``auto`` is what the frozen base is stored in where that is a half type, else bf16 on CUDA and fp32 on the CPU.
    Raises DeviceError or RecipeError for combinations that do not exist.
    """
    if precision == "auto":
        half = {"bfloat16": "bf16", "float16": "fp16"}.get(dtype)
        precision = half or ("bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError(
            "fp16 training needs a CUDA device, and this run is on the CPU; set train.precision: bf16 or fp32 (and "
            "model.dtype accordingly)"
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError(f"{torch.cuda.get_device_name(device)} has no bf16; set train.precision: fp16 or fp32")
    if dtype != "float32" and precision == "fp32":
        raise RecipeError(
            f"model.dtype {dtype} cannot be trained in train.precision fp32; set train.precision: auto, or "
            "model.dtype: float32"
        )
    return precision


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """An Accelerator for one run; processes started by ``accelerate launch`` join the same group.

    Several runs may follow each other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if AcceleratorState._shared_state:  # an earlier run of this process may have used another precision
        AcceleratorState._reset_state(reset_partial_state=False)
    if not distributed and PartialState._shared_state:
        PartialState._reset_state()
    if device.type == "cuda" and device.index is not None and not distributed:
        torch.cuda.set_device(device)
    with warnings.catch_warnings():  # of the number of threads, which is ours to set
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS", category=UserWarning)
        accelerator = Accelerator(mixed_precision=_MIXED[precision], cpu=device.type == "cpu")
    if distributed:
        atexit.register(_leave_group)
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise DeviceError(
            f"the Accelerate configuration asks for {accelerator.distributed_type.value}, which shards or replaces "
            "the adapters' tensors and is not supported; launch with --multi_gpu or --cpu"
        )
    return accelerator


def autocast(accelerator: Accelerator, settings: AutocastKwargs | None = None) -> AbstractContextManager[None]:
    """The run's precision around a forward pass.

    In fp32 it is nothing at all: to find that out, Accelerate compares its settings with the environment, which takes
    longer than a layer of a small model.
    """
    return nullcontext() if accelerator.mixed_precision == "no" else accelerator.autocast(settings)


def autocast_type(accelerator: Accelerator) -> torch.dtype | None:
    """What `autocast` computes in; None where it is nothing."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


def without_cache() -> AutocastKwargs:
    """Settings of `autocast` for captured work: a cached copy of a weight would belong to one graph and be read by
    another.
    """
    from accelerate.utils import AutocastKwargs

    return AutocastKwargs(cache_enabled=False)


def _leave_group() -> None:
    """Ends the threads that talk to the other processes; the interpreter's own end would abort on them."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
