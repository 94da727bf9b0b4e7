"""The regulariser DEM in closed form. Pure functions of tensors."""

from __future__ import annotations

import torch

Both = tuple[torch.Tensor, torch.Tensor]
"""`A` and the transpose of `B`, or something of them, a row a component."""


def add_variance_gradients(gradients: Both, factors: Both, weight: float) -> torch.Tensor:
    """DEM (paper, equation 10).

    Adds ``weight`` times the gradient of ``sum_i Var(row i of factor)``, which is ``2 (x_ij - mean_i) / (d - 1)``, to
    the `gradients` of both factors.

    Args:
        gradients, factors: ``(..., d_in)`` and ``(..., d_out)``; rows are the `a_i` and the `b_i`.

    Returns:
        The variance of each row of the one and of the other, ``(2, ...)``.
    """
    both = zip(gradients, factors, strict=True)
    return torch.stack([_add_variance_gradient(gradient, factor, weight) for gradient, factor in both])


def _add_variance_gradient(gradient: torch.Tensor, factor: torch.Tensor, weight: float) -> torch.Tensor:
    variance, mean = torch.var_mean(factor, dim=-1, keepdim=True)
    scale = 2 * weight / (factor.shape[-1] - 1)
    gradient.add_(factor, alpha=scale).sub_(mean, alpha=scale)
    return variance.squeeze(-1)
