"""Random state: one seed for a run, and the strict determinism that ``train.deterministic`` asks for."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_deterministic(on: bool) -> None:
    """Bitwise repeatable kernels on CUDA, at some cost; the CPU is repeatable anyway.

    The memory-efficient attention kernel has no deterministic backward, so it is left out while `on`. cuBLAS reads its
    workspace setting when it starts: this must run before the first matrix product on the device.
    """
    if torch.are_deterministic_algorithms_enabled() != on or torch.is_deterministic_algorithms_warn_only_enabled():
        torch.use_deterministic_algorithms(on)  # PyTorch loads its whole compiler in this call, more than half a second
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_mem_efficient_sdp(not on)
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
