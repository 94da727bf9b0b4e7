"""`dora_cli.methods.adalora.sensitivity.update` in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def _update(weight, gradient, sensitivity, uncertainty, skipped, entries, new1, new2, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = (index < entries) & (tl.load(skipped) == 0)
    now = tl.abs(tl.load(weight + index, mask=mask, other=0.0) * tl.load(gradient + index, mask=mask, other=0.0))
    smoothed = tl.load(sensitivity + index, mask=mask, other=0.0)
    smoothed += new1 * (now - smoothed)
    tl.store(sensitivity + index, smoothed, mask=mask)
    spread = tl.load(uncertainty + index, mask=mask, other=0.0)
    tl.store(uncertainty + index, spread + new2 * (tl.abs(now - smoothed) - spread), mask=mask)


def update(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    sensitivity: torch.Tensor,
    uncertainty: torch.Tensor,
    beta1: float,
    beta2: float,
    skipped: torch.Tensor | None,
) -> None:
    """See `sensitivity.update`; contiguous fp32."""
    entries = weight.numel()
    flag = torch.zeros((), dtype=torch.bool, device=weight.device) if skipped is None else skipped
    _update[(triton.cdiv(entries, _BLOCK),)](
        weight, gradient, sensitivity, uncertainty, flag.view(torch.uint8), entries, 1 - beta1, 1 - beta2,
        BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
