"""What of `dora_cli.methods.dora.importance` one kernel does better than several passes; Gram matrices are no such
thing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.dora.importance import Both
from dora_cli.methods.triton_launch import launch


@triton.jit
def _of_row(gradient, factor, index, width, weight, BLOCK: tl.constexpr):
    """The variance of row `index`; adds its gradient."""
    row = index * width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        total += tl.load(factor + row + d, mask=d < width, other=0.0)
    mean = tl.sum(total) / width
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    scale = 2 * weight / (width - 1)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        away = tl.where(d < width, tl.load(factor + row + d, mask=d < width, other=0.0) - mean, 0.0)
        squares += away * away
        tl.store(
            gradient + row + d, tl.load(gradient + row + d, mask=d < width, other=0.0) + scale * away, mask=d < width
        )
    return tl.sum(squares) / (width - 1)


@triton.jit
def _variance_gradients(grad_A, grad_B_t, A, B_t, variances, d_in, d_out, weight, BLOCK: tl.constexpr):
    """One row of one factor a block."""
    index = tl.program_id(0).to(tl.int64)
    if tl.program_id(1) == 0:
        tl.store(variances + index, _of_row(grad_A, A, index, d_in, weight, BLOCK))
    else:
        place = tl.num_programs(0) + index
        tl.store(variances + place, _of_row(grad_B_t, B_t, index, d_out, weight, BLOCK))


def add_variance_gradients(gradients: Both, factors: Both, weight: float) -> torch.Tensor:
    """See `importance.add_variance_gradients`; contiguous fp32, ``(R, d_in)`` and ``(R, d_out)``."""
    A, B_t = factors
    variances = torch.empty(2, len(A), device=A.device)
    arguments = *gradients, A, B_t, variances, A.shape[1], B_t.shape[1], weight
    launch(_variance_gradients, (len(A), 2, 1), *arguments, BLOCK=1024, num_warps=4)
    return variances
