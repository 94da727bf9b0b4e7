"""`dora_cli.methods.low_rank.step_bound` in two kernels for a group: what each projection may make of its step, and
making that of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

MOST = 64
"""The largest rank: six Gram matrices of one projection have to fit a block's registers."""

_COLUMNS = 64


@triton.jit
def _share(
    A, B_t, A_before, B_before, starts, ranks, norms, limit, shares, d_in, d_out,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    projection = tl.program_id(0)
    r = tl.arange(0, BLOCK_R)
    inside, row = r[:, None] < tl.load(ranks + projection), (tl.load(starts + projection) + r[:, None]).to(tl.int64)
    dA_dA = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    dA_A = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    A_A = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    for start in range(0, d_in, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)[None, :]
        old = tl.load(A_before + row * d_in + d, mask=inside & (d < d_in), other=0.0)
        move = tl.load(A + row * d_in + d, mask=inside & (d < d_in), other=0.0) - old
        dA_dA = tl.dot(move, tl.trans(move), dA_dA, input_precision="ieee")
        dA_A = tl.dot(move, tl.trans(old), dA_A, input_precision="ieee")
        A_A = tl.dot(old, tl.trans(old), A_A, input_precision="ieee")
    dB_dB = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    dB_B = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    B_B = tl.zeros((BLOCK_R, BLOCK_R), dtype=tl.float32)
    for start in range(0, d_out, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)[None, :]
        old = tl.load(B_before + row * d_out + d, mask=inside & (d < d_out), other=0.0)
        move = tl.load(B_t + row * d_out + d, mask=inside & (d < d_out), other=0.0) - old
        dB_dB = tl.dot(move, tl.trans(move), dB_dB, input_precision="ieee")
        dB_B = tl.dot(move, tl.trans(old), dB_B, input_precision="ieee")
        B_B = tl.dot(old, tl.trans(old), B_B, input_precision="ieee")
    # of A after the step, from A before it
    after_after = A_A + dA_A + tl.trans(dA_A) + dA_dA
    dA_after = dA_A + dA_dA
    squares = tl.sum(dB_dB * after_after + B_B * dA_dA + 2 * dB_B * tl.trans(dA_after))
    moved = tl.sqrt(tl.maximum(squares, 0.0))
    most = tl.load(limit) * tl.load(norms + projection)
    tl.store(shares + projection, tl.where(moved > most, most / moved, 1.0))


@triton.jit
def _mix(A, B_t, A_before, B_before, owners, shares, d_in, d_out, BLOCK_D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    share = tl.load(shares + tl.load(owners + row))
    if share < 1:
        for start in range(0, d_in, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            old = tl.load(A_before + row * d_in + d, mask=d < d_in, other=0.0)
            new = tl.load(A + row * d_in + d, mask=d < d_in, other=0.0)
            tl.store(A + row * d_in + d, old + share * (new - old), mask=d < d_in)
        for start in range(0, d_out, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            old = tl.load(B_before + row * d_out + d, mask=d < d_out, other=0.0)
            new = tl.load(B_t + row * d_out + d, mask=d < d_out, other=0.0)
            tl.store(B_t + row * d_out + d, old + share * (new - old), mask=d < d_out)


class Rows:
    """Which rows of a group belong to which projection, on its device.

    Args:
        ranks: of the projections, in the order of their rows.
    """

    def __init__(self, ranks: Sequence[int], device: torch.device) -> None:
        starts = [sum(ranks[:index]) for index in range(len(ranks))]
        owners = [index for index, rank in enumerate(ranks) for _ in range(rank)]
        self.starts, self.ranks, self.owners = (
            torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in (starts, ranks, owners)
        )
        self.block = max(16, 1 << (max(ranks) - 1).bit_length())  # the least that a tensor core multiplies


def hold(
    factors: tuple[torch.Tensor, torch.Tensor],
    before: tuple[torch.Tensor, torch.Tensor],
    rows: Rows,
    norms: torch.Tensor,
    limit: torch.Tensor,
) -> None:
    """Makes what moved too far move less, in place.

    Args:
        factors: `A` ``(R, d_in)`` and the transpose of `B` ``(R, d_out)``, contiguous fp32.
        before: the same before the step.
        norms: of each projection's weight over the scale of its update, ``(M,)``.
        limit: 0-d, on a step over the norm.
    """
    A, B_t = factors
    d_in, d_out = A.shape[1], B_t.shape[1]
    shares = torch.empty_like(norms)
    _share[(len(norms),)](
        A, B_t, *before, rows.starts, rows.ranks, norms, limit, shares, d_in, d_out,
        BLOCK_R=rows.block, BLOCK_D=_COLUMNS, num_warps=4,
    )  # fmt: skip
    _mix[(len(A),)](A, B_t, *before, rows.owners, shares, d_in, d_out, BLOCK_D=512, num_warps=4)
