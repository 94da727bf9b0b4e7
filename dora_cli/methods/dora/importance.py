"""The regulariser DEM in closed form. Pure functions of tensors."""

from __future__ import annotations

import torch


def add_variance_gradient(gradient: torch.Tensor, factor: torch.Tensor, weight: float) -> torch.Tensor:
    """DEM of one factor (paper, equation 10).

    Adds ``weight`` times the gradient of ``sum_i Var(row i of factor)``, which is ``2 (x_ij - mean_i) / (d - 1)``, to
    `gradient`.

    Args:
        gradient, factor: ``(..., d)``; rows are the `a_i`, or the `b_i` of a transposed `B`.

    Returns:
        The variance of each row, ``(...)``.
    """
    variance, mean = torch.var_mean(factor, dim=-1, keepdim=True)
    scale = 2 * weight / (factor.shape[-1] - 1)
    gradient.add_(factor, alpha=scale).sub_(mean, alpha=scale)
    return variance.squeeze(-1)
