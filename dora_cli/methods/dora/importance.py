"""Importance of single-rank components and the regulariser DEM, in closed form. Pure functions of tensors.

Shapes carry any number of leading dimensions (projections of one shape are stacked): `A` is ``(..., r, d_in)``, `B`
``(..., d_out, r)``, `c` ``(..., r)``. No ``r x d_out x d_in`` tensor is ever made: everything follows from the Gram matrices
``A A^T`` and ``B^T B`` (reference section 1.11).
"""

from __future__ import annotations

import torch

EPS = 1e-8
"""Added to the denominator of a score, as in the published code; decides 0/0 at the first step in favour of 0."""


def component_scores(A: torch.Tensor, B: torch.Tensor, c: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """Normalised Frobenius norm of each component (paper, equation 7).

    ``s_i = ||c_i b_i a_i^T||_F / (||sum_j c_j b_j a_j^T||_F + eps)`` with the numerator ``|c_i| ||a_i|| ||b_i||`` and the squared
    denominator ``c^T K c``, ``K = (B^T B) o (A A^T)``. At least fp32; cancellation can make ``c^T K c`` slightly negative, so it is
    clamped at 0.

    Returns:
        Scores of shape ``(..., r)``, non-negative, not bounded by 1.
    """
    dtype = torch.promote_types(c.dtype, torch.float32)
    A, B, c = A.to(dtype), B.to(dtype), c.to(dtype)
    gram = (A @ A.mT) * (B.mT @ B)
    norms = c.abs() * gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    squared = torch.einsum("...i,...ij,...j->...", c, gram, c).clamp_min(0)
    return norms / (squared.sqrt().unsqueeze(-1) + eps)


def ema(average: torch.Tensor, value: torch.Tensor, beta: float) -> torch.Tensor:
    """``beta * average + (1 - beta) * value`` (paper, equation 8). No bias correction: it would not change any ranking."""
    return beta * average + (1 - beta) * value


def variance_sum(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Sum over components of ``Var(a_i) + Var(b_i)``, each the unbiased variance of a factor's entries (paper, equation 10).

    Returns:
        A scalar, summed over all leading dimensions.
    """
    return A.var(dim=-1).sum() + B.var(dim=-2).sum()


def variance_gradients(A: torch.Tensor, B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of `variance_sum`: ``2 (a_ij - mean_i) / (d_in - 1)`` and likewise for the columns of `B`."""
    grad_A = (A - A.mean(dim=-1, keepdim=True)) * (2 / (A.shape[-1] - 1))
    grad_B = (B - B.mean(dim=-2, keepdim=True)) * (2 / (B.shape[-2] - 1))
    return grad_A, grad_B
