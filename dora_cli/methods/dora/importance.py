"""Importance of single-rank components and the regulariser DEM, in closed form. Pure functions of tensors.

Shapes carry any number of leading dimensions (projections of one shape are stacked): `A` is ``(..., r, d_in)``, `B`
``(..., d_out, r)``, `c` ``(..., r)``. No ``r x d_out x d_in`` tensor is ever made: everything follows from the Gram
matrices ``A A^T`` and ``B^T B`` (reference section 1.11).
"""

from __future__ import annotations

import torch

EPS = 1e-8
"""Added to the denominator of a score, as in the published code; decides 0/0 at the first step in favour of 0."""


def gram(A: torch.Tensor, B_t: torch.Tensor) -> torch.Tensor:
    """``K = (B^T B) o (A A^T)``, at least fp32.

    Args:
        A: ``(..., r, d_in)``.
        B_t: ``(..., r, d_out)``, the transpose of `B`.

    Returns:
        ``(..., r, r)``.
    """
    dtype = torch.promote_types(A.dtype, torch.float32)
    A, B_t = A.to(dtype), B_t.to(dtype)
    return (A @ A.mT) * (B_t @ B_t.mT)


def scores_of_gram(gram: torch.Tensor, c: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """Normalised Frobenius norm of each component (paper, equation 7), for projections of several shapes at once.

    ``s_i = ||c_i b_i a_i^T||_F / (||sum_j c_j b_j a_j^T||_F + eps)`` with the numerator ``|c_i| ||a_i|| ||b_i||`` and
    the squared denominator ``c^T K c``, where `K` is `gram`, ``(..., r, r)``. Cancellation can make ``c^T K c``
    slightly negative, so it is clamped at 0.

    Returns:
        Scores of shape ``(..., r)`` in the type of `gram`, non-negative, not bounded by 1.
    """
    c = c.to(gram.dtype)
    norms = c.abs() * gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    squared = ((gram @ c.unsqueeze(-1)).squeeze(-1) * c).sum(-1, keepdim=True).clamp_min(0)
    return norms / (squared.sqrt() + eps)


def ema(average: torch.Tensor, value: torch.Tensor, beta: float) -> torch.Tensor:
    """``beta * average + (1 - beta) * value`` (paper, equation 8).

    No bias correction: it would not change any ranking.
    """
    return beta * average + (1 - beta) * value


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
