"""What a run was made with: versions, device, base model, data."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from dora_cli.version import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
)


def describe_environment(
    *,
    device: torch.device,
    precision: str,
    processes: int,
    model_commit: str | None,
    model_fingerprint: str,
    model_size: ModelSize,
    pad_multiple: int,
    batch_parts: Mapping[str, int],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of environment.json. `data` maps split names to their size and fingerprint."""
    return {
        "schema_version": 1,
        "dora": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_threads": torch.get_num_threads(),
        "precision": precision,
        "processes": processes,
        "pad_multiple": pad_multiple,
        "batch_parts": dict(batch_parts),
        "model": {"commit": model_commit, "fingerprint": model_fingerprint, **asdict(model_size)},
        "data": dict(data),
    }


@dataclass(frozen=True)
class ModelSize:
    """A model before anything is attached to it, its head included: what full fine-tuning would train. Shared weights
    count once.

    Attributes:
        parameters: entries of all parameters.
        bytes: what they take as they were loaded.
        head_parameters: those of them that train besides the adapters.
    """

    parameters: int
    bytes: int
    head_parameters: int

    @classmethod
    def of(cls, model: nn.Module, head: Iterable[nn.Parameter]) -> ModelSize:
        everything = list(model.parameters())
        return cls(
            parameters=sum(parameter.numel() for parameter in everything),
            bytes=sum(parameter.numel() * parameter.element_size() for parameter in everything),
            head_parameters=sum(parameter.numel() for parameter in head),
        )


def versions() -> dict[str, str | None]:
    """What is installed of the packages that numbers depend on."""
    return {name: installed_version(name) for name in _PACKAGES}


@functools.cache
def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None if it is not there. Looked up once, for every checkpoint asks."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory held so far: the device's on CUDA since the run began, the process's resident set on the CPU since it
    started.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes on Linux
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
