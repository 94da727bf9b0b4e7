"""What can be computed on."""

from __future__ import annotations

import os
import warnings
from typing import Any

from dora_cli.machine.cores import usable_cores
from dora_cli.wording import plural


def look_at_devices() -> list[dict[str, Any]]:
    """``name, memory_bytes, free_bytes, precisions, note`` of the CPU and of every CUDA device; nothing where PyTorch
    does not load.
    """
    try:
        import torch
    except Exception:  # said among the packages
        return []
    total, free = _memory()
    cpu = {
        "device": "cpu",
        "name": f"{plural(usable_cores(), 'core')}, {plural(torch.get_num_threads(), 'thread')}",
        "memory_bytes": total,
        "free_bytes": free,
        "precisions": ["fp32", "bf16"],  # fp16 needs the scaling that is for CUDA
        "note": None,
    }
    with warnings.catch_warnings():  # an old driver is told of by a warning
        warnings.simplefilter("ignore")
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found and torch.version.cuda is not None:
        cpu["note"] = (
            f"PyTorch is built for CUDA {torch.version.cuda} but sees no device: is there a GPU, and a "
            "driver for this CUDA?"
        )
    return [cpu, *(_cuda(index) for index in range(found))]


def _cuda(index: int) -> dict[str, Any]:
    import torch

    device: dict[str, Any] = {
        "device": f"cuda:{index}",
        "name": None,
        "memory_bytes": None,
        "free_bytes": None,
        "precisions": [],
        "note": None,
    }
    try:
        properties = torch.cuda.get_device_properties(index)
        device |= {"name": properties.name, "memory_bytes": properties.total_memory}
        with torch.cuda.device(index):
            device["precisions"] = ["fp32", *(["bf16"] if torch.cuda.is_bf16_supported() else []), "fp16"]
            device["free_bytes"] = torch.cuda.mem_get_info()[0]
            if obstacle := _without_triton():
                device["note"] = f"training is slower without Triton: {obstacle}"
    except Exception as error:  # a device that is full, or of which another process has sole use
        device["note"] = f"cannot be used now: {next(iter(str(error).splitlines()), type(error).__name__)}"
    return device


def _without_triton() -> str | None:
    """Why adapters are computed without Triton; None where they are not."""
    try:
        from dora_cli.methods import triton_obstacle
    except Exception:  # said among the packages
        return None
    return triton_obstacle()


def _memory() -> tuple[int | None, int | None]:
    """The machine's memory and what is free of it, in bytes; None where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None, None
