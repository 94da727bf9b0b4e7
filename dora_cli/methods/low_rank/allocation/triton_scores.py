"""The published score of all components of a weight shape by two kernels: parts of all Gram matrices, each from some
columns of a factor, and what follows from their sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.layout import Layout
from dora_cli.methods.triton_launch import launch

MAX_RANK = 64
"""Larger Gram matrices would not fit the registers of a block."""

COLUMNS = 128
"""Columns of a factor that a block reads."""


@triton.jit
def _parts(
    A, B_t, out, firsts, d_in, d_out, parts_in, BLOCK_R: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Block `i` of a projection has columns of `A`, from `parts_in` on of `B_t`."""
    part, of_B = tl.program_id(1), tl.program_id(1) >= parts_in
    first = tl.load(firsts + tl.program_id(0))
    rank = tl.load(firsts + tl.program_id(0) + 1) - first
    width = tl.where(of_B, d_out, d_in)
    factor = A
    if of_B:
        factor = B_t
    r = tl.arange(0, BLOCK_R)
    factor += (first + r[:, None]) * width
    begin = tl.where(of_B, part - parts_in, part) * COLUMNS
    total = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    for start in range(0, COLUMNS, BLOCK_D):
        d = begin + start + tl.arange(0, BLOCK_D)[None, :]
        rows = tl.load(factor + d, mask=(r[:, None] < rank) & (d < width), other=0.0)
        total = tl.dot(rows, tl.trans(rows), total, input_precision="ieee")
    place = (tl.program_id(0) * tl.num_programs(1) + part) * BLOCK_R * BLOCK_R
    tl.store(out + place + r[:, None] * BLOCK_R + r[None, :], total)


@triton.jit
def _sum(parts, first, count, BLOCK_R: tl.constexpr):
    r = tl.arange(0, BLOCK_R)
    total = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    parts += first * BLOCK_R * BLOCK_R + r[:, None] * BLOCK_R + r[None, :]
    for _ in range(count):
        total += tl.load(parts)
        parts += BLOCK_R * BLOCK_R
    return total


@triton.jit
def _published(parts, c, out, firsts, parts_in, parts_out, eps, GATED: tl.constexpr, BLOCK_R: tl.constexpr):
    """One projection a block; `firsts` are the first rows of all, and the number of rows."""
    first = tl.load(firsts + tl.program_id(0))
    rank = tl.load(firsts + tl.program_id(0) + 1) - first
    r = tl.arange(0, BLOCK_R)
    before = tl.program_id(0) * (parts_in + parts_out)
    gram = _sum(parts, before, parts_in, BLOCK_R) * _sum(parts, before + parts_in, parts_out, BLOCK_R)
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
    count, block = len(layout.ranks), max(16, triton.next_power_of_2(layout.width))  # the least of `tl.dot`
    widths = A.shape[1], B_t.shape[1]
    several = [triton.cdiv(width, COLUMNS) for width in widths]
    parts, out = A.new_empty(count, sum(several), block, block), A.new_empty(len(A))
    columns, warps = (64, 1) if block == 16 else (128 if block == 32 else 32, 2)  # a warp is enough for as few
    read = A, B_t, parts, layout.firsts, *widths, several[0]
    each = {"COLUMNS": COLUMNS, "BLOCK_D": columns, "BLOCK_R": block, "num_warps": warps}
    launch(_parts, (count, sum(several), 1), *read, **each)
    gates, gated = A if c is None else c, c is not None
    constants = {"GATED": gated, "BLOCK_R": block, "num_warps": 2}
    launch(_published, (count, 1, 1), parts, gates, out, layout.firsts, *several, eps, **constants)
    return out
