"""Eigenvalues and eigenvectors of many small symmetric matrices at once, without waiting for the device.

PyTorch's `eigh` waits on CUDA and cannot be captured. There it is Jacobi's method: rotations by which pairs of rows and
columns become orthogonal. Of `R` rows, a power of two, row `i` is paired with row ``i xor k``, for `k` from 1 to `R` -
1: that is every pair once, `R / 2` of them at a time. How often it goes over all pairs is fixed, so that the work is
the same at every step.
"""

from __future__ import annotations

import torch

from dora_cli.methods.low_rank.kernels import takes_triton

MAX_TRITON = 64
"""Larger matrices would not fit the registers of a block."""

Eigen = tuple[torch.Tensor, torch.Tensor]
"""Values ``(n, r)``, in no order, and vectors ``(n, r, r)``, a column each."""


def eigen(grams: torch.Tensor) -> Eigen:
    """Decomposes symmetric `grams`, ``(n, r, r)``, in float64; what is not finite comes to what is not finite."""
    if grams.device.type == "cpu":
        finite = grams.isfinite().all()
        values, vectors = torch.linalg.eigh(grams.nan_to_num(0.0, 0.0, 0.0))  # it raises otherwise
        return torch.where(finite, values, torch.nan), vectors
    if grams.shape[-1] <= MAX_TRITON and takes_triton(grams.device):
        from dora_cli.methods.low_rank.triton_eigen import jacobi as in_triton

        return in_triton(grams)
    return jacobi(grams)


def rows_for(rank: int) -> int:
    """The least power of two that is not below `rank`."""
    return 1 << (rank - 1).bit_length()


def sweeps_for(rows: int) -> int:
    """How often all pairs are gone over: the last of them changes nothing that float64 holds."""
    return 6 + rows.bit_length()


def jacobi(grams: torch.Tensor) -> Eigen:
    """`eigen` in plain tensor operations."""
    rank = grams.shape[-1]
    rows = rows_for(rank)
    G = torch.nn.functional.pad(grams, (0, rows - rank, 0, rows - rank))
    V = torch.eye(rows, dtype=G.dtype, device=G.device).expand_as(G)
    index = torch.arange(rows, device=G.device)
    one = torch.ones((), dtype=G.dtype, device=G.device)
    for _ in range(sweeps_for(rows)):
        for distance in range(1, rows):
            partner = index ^ distance
            values = G.diagonal(dim1=1, dim2=2)
            shared = G.gather(2, partner.expand(len(G), rows)[..., None]).squeeze(2)
            away = (values[:, partner] - values) / (2 * shared)
            # of two equal values, one turns this way and the other that way
            sign = torch.where(away == 0, torch.where(index < partner, one, -one), away.sign())
            tangent = torch.where(shared == 0, 0.0, sign / (away.abs() + torch.sqrt(away * away + 1)))
            cosine = torch.rsqrt(tangent * tangent + 1)
            sine = tangent * cosine
            G = cosine[:, None] * G - sine[:, None] * G[:, :, partner]
            G = cosine[..., None] * G - sine[..., None] * G[:, partner]
            V = cosine[:, None] * V - sine[:, None] * V[:, :, partner]
            # a pair must find the very same angle, which rounding would not give it
            G = ((G + G.mT) / 2).scatter(2, partner.expand(len(G), rows)[..., None], 0.0)
    return G.diagonal(dim1=1, dim2=2)[:, :rank], V[:, :rank, :rank]
