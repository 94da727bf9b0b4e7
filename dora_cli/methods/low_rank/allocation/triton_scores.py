"""The published score of all components of a weight shape by one kernel, which reads every factor once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.layout import Layout
from dora_cli.methods.triton_launch import launch

MAX_RANK = 128
"""Larger Gram matrices would not fit the registers of a block."""


@triton.jit
def _gram(factor, first, rank, width, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    r = tl.arange(0, BLOCK_R)[:, None]
    total = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    factor += (first + r) * width
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)[None, :]
        part = tl.load(factor + d, mask=(r < rank) & (d < width), other=0.0)
        total = tl.dot(part, tl.trans(part), total, input_precision="ieee")
    return total


@triton.jit
def _published(
    A, B_t, c, out, firsts, d_in, d_out, eps, GATED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """One projection a block; `firsts` are the first rows of all, and the number of rows."""
    first = tl.load(firsts + tl.program_id(0))
    rank = tl.load(firsts + tl.program_id(0) + 1) - first
    r = tl.arange(0, BLOCK_R)
    gram = _gram(A, first, rank, d_in, BLOCK_R, BLOCK_D) * _gram(B_t, first, rank, d_out, BLOCK_R, BLOCK_D)
    gates = tl.load(c + first + r, mask=r < rank, other=0.0) if GATED else tl.where(r < rank, 1.0, 0.0)
    squares = tl.sum(tl.where(r[:, None] == r[None, :], gram, 0.0), axis=1)
    whole = tl.sum(tl.sum(gram * gates[None, :], axis=1) * gates, axis=0)
    norms = tl.abs(gates) * tl.sqrt(tl.maximum(squares, 0.0))
    tl.store(out + first + r, norms / (tl.sqrt(tl.maximum(whole, 0.0)) + eps), mask=r < rank)


def published(A: torch.Tensor, B_t: torch.Tensor, c: torch.Tensor | None, layout: Layout, eps: float) -> torch.Tensor:
    """`scores.scores_of_gram` of every projection, ``(R,)``.

    Args:
        A, B_t, c: contiguous fp32, as `Components` holds them; no gates where `c` is None.
        layout: which rows are of which projection; none has more than `MAX_RANK`.
        eps: added to the denominator.
    """
    out = A.new_empty(len(A))
    block = max(16, triton.next_power_of_2(layout.width))  # the least that `tl.dot` multiplies
    arguments = A, B_t, A if c is None else c, out, layout.firsts, A.shape[1], B_t.shape[1], eps
    columns = 128 if block <= 32 else 32
    grid = len(layout.ranks), 1, 1
    launch(_published, grid, *arguments, GATED=c is not None, BLOCK_R=block, BLOCK_D=columns, num_warps=4)
    return out
