"""How many threads would compute here, and how busy the machine is."""

from __future__ import annotations

import os
from typing import Any

from dora_cli.machine.cores import usable_cores

_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE")
_LARGE = 16 * 128 * 768 * 3072
"""Multiplications of RoBERTa-base's largest product at 16 x 128 tokens, the defaults of a recipe."""


def look_at_threads() -> dict[str, Any]:
    """``cores, torch, most, large, environment, load``; all but `cores` and `load` are None where PyTorch does not
    load.

    `torch` is what PyTorch takes by itself, `most` the most that ``train.threads: auto`` takes and `large` what it
    takes for RoBERTa-base; a tiny model takes one. `environment` holds the variables that are set, `load` the averages
    of 1, 5 and 15 minutes.
    """
    try:
        import torch

        from dora_cli.machine.threads import most_threads, worth_threads
    except Exception:  # said among the packages
        return threads_without_torch()
    return threads_without_torch() | {
        "torch": torch.get_num_threads(),
        "most": most_threads(),
        "large": min(worth_threads(_LARGE), most_threads()),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def threads_without_torch() -> dict[str, Any]:
    """The same where PyTorch does not load."""
    return {"cores": usable_cores(), "torch": None, "most": None, "large": None, "environment": None, "load": _load()}


def _load() -> list[float] | None:
    try:
        return [round(average, 2) for average in os.getloadavg()]
    except (AttributeError, OSError):  # Windows; a container that does not say
        return None
