"""What of `dora_cli.methods.dora.importance` one kernel does better than several passes; Gram matrices are no such
thing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.triton_launch import launch


@triton.jit
def _variance_gradient(gradient, factor, variance, width, weight, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)
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
    tl.store(variance + index, tl.sum(squares) / (width - 1))


def add_variance_gradient(gradient: torch.Tensor, factor: torch.Tensor, weight: float) -> torch.Tensor:
    """See `importance.add_variance_gradient`; contiguous fp32, ``(R, d)``."""
    rows, width = factor.shape
    variance = torch.empty(rows, device=factor.device)
    arguments = gradient, factor, variance, width, weight
    launch(_variance_gradient, (rows, 1, 1), *arguments, BLOCK=1024, num_warps=4)
    return variance
