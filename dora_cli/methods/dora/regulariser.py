"""The regulariser DEM on the device that its factors are on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dora_cli.methods.dora import importance
from dora_cli.methods.low_rank.kernels import takes_triton

VarianceGradient = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def variance_gradient_for(device: torch.device, dtype: torch.dtype) -> VarianceGradient:
    """`importance.add_variance_gradient`, or the same in Triton."""
    if dtype == torch.float32 and takes_triton(device):
        from dora_cli.methods.dora import triton_importance

        return triton_importance.add_variance_gradient
    return importance.add_variance_gradient
