"""A ledger's verdict on a step and its sums by one kernel, in place of one for each operation on a single number."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.triton_launch import launch


@triton.jit(do_not_specialize=["number"])
def _judge(
    adds, sums, step, units, norm, grad_norm, skipped, halted, bad_steps, first_bad, number, SCALED: tl.constexpr
):
    """All by scalars, which one thread stores: none reads what another has written. `number`: of bad steps that do not
    halt a run.
    """
    loss, all_units = tl.load(adds), tl.load(units).to(tl.float64)
    size, now = tl.load(norm).to(tl.float64), tl.load(step) + 1
    ended, bad_before, first = tl.load(halted), tl.load(bad_steps), tl.load(first_bad)
    both = size + loss
    bad = (both - both) != 0  # not a number where one of them is not finite
    if SCALED:
        count = tl.where(bad, bad_before + 1, 0)
        first = tl.where(ended, first, tl.where(bad, tl.where(first < 0, now, first), -1))
    else:
        count = bad_before + bad.to(tl.int64)
        first = tl.where((count > number) & (ended == 0), now, first)
    ended = ended | (count > number)
    skips = ended | bad
    tl.store(step, now)
    tl.store(grad_norm, size)
    tl.store(bad_steps, count)
    tl.store(first_bad, first)
    tl.store(halted, ended)
    tl.store(skipped, skips)
    tl.store(sums, tl.load(sums) + tl.where(skips, 0.0, loss))
    tl.store(sums + 1, tl.load(sums + 1) + tl.where(skips, 0.0, 1.0))
    tl.store(sums + 2, tl.load(sums + 2) + tl.where(skips, 0.0, loss * all_units))
    tl.store(sums + 3, tl.load(sums + 3) + tl.where(skips, 0.0, all_units))
    tl.store(adds, 0.0)


def judge(*tensors: torch.Tensor, most: int, scaled: bool) -> None:
    """See `Ledger.judge`; the bits are those of its plain operations.

    Args:
        tensors: the kernel's, in its order, on the current device.
        most: bad steps that do not halt a run yet; in a row where gradients are scaled.
        scaled: whether they are.
    """
    constants = {"SCALED": scaled, "num_warps": 1, "enable_fp_fusion": False}  # a product is rounded before it is added
    launch(_judge, (1, 1, 1), *tensors, most, **constants)
