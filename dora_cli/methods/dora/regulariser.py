"""The regulariser DEM on the device that its factors are on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dora_cli.methods.dora import importance
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton

VarianceGradients = Callable[[importance.Both, importance.Both, float], torch.Tensor]


def variance_gradients_for(device: torch.device, dtype: torch.dtype) -> VarianceGradients:
    """`importance.add_variance_gradients`, or the same in Triton."""
    if dtype == torch.float32 and takes_triton(device):
        from dora_cli.methods.dora import triton_importance

        return triton_importance.add_variance_gradients
    return importance.add_variance_gradients
