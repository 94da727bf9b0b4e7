"""How factors and gates start, as in the published code."""

from __future__ import annotations

import math

import torch


def draw(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both factors from Kaiming-uniform (fan-in, ``a = 0``), the gates zero: a fresh layer computes what its base does.

    Args:
        d_out, d_in: shape of the projection's weight.
        rank: components.
        dtype: of all three.
        generator: on the CPU, so that a seed gives the same factors whatever the device.

    Returns:
        `A`, ``(rank, d_in)`` from ``U(+-sqrt(6 / d_in))``; `B`, ``(d_out, rank)`` from ``U(+-sqrt(6 / rank))``; `c`,
        ``(rank,)``. (Reference section 1.1.)
    """
    A, B = torch.empty(rank, d_in, dtype=dtype), torch.empty(d_out, rank, dtype=dtype)
    for factor, bound in ((A, math.sqrt(6 / d_in)), (B, math.sqrt(6 / rank))):
        factor.uniform_(-bound, bound, generator=generator)
    return A, B, torch.zeros(rank, dtype=dtype)
