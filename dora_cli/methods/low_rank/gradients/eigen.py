"""Eigenvalues and eigenvectors of many small symmetric matrices at once, without waiting for the device.

PyTorch's `eigh` waits on CUDA and cannot be captured. There it is Jacobi's method (`jacobi`).
"""

from __future__ import annotations

import torch

from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton
from dora_cli.methods.low_rank.gradients.jacobi import Eigen, jacobi

MAX_TRITON = 64
"""Larger matrices would not fit the registers of a block."""


def eigen(grams: torch.Tensor) -> Eigen:
    """Decomposes symmetric `grams`, ``(n, r, r)``, in float64; what is not finite comes to what is not finite."""
    if grams.device.type == "cpu":
        finite = grams.isfinite().all()
        values, vectors = torch.linalg.eigh(grams.nan_to_num(0.0, 0.0, 0.0))  # it raises otherwise
        return torch.where(finite, values, torch.nan), vectors
    if grams.shape[-1] <= MAX_TRITON and takes_triton(grams.device):
        from dora_cli.methods.low_rank.gradients.triton_jacobi import jacobi as in_triton

        return in_triton(grams)
    return jacobi(grams)
