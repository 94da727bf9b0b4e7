"""Clipping and AdamW over many tensors in blocks of a thousand elements each, so that all of a GPU has work: PyTorch
gives one multiprocessor up to 65,536 elements of a tensor at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import nn

from dora_cli.data.transfer import to_device
from dora_cli.methods.triton_launch import launch

BLOCK = 1024
"""Elements of a block."""

SUMS = 4096
"""Sums of blocks that `_norm` adds at a time."""

_WEIGHT, _GRADIENT, _MEAN, _SQUARE, _STEP, _RATE, _COUNT, _COLUMNS = map(tl.constexpr, range(8))
"""Columns of a table, whose rows are blocks: where elements, counter and rate are, and how many elements."""


@triton.jit
def _at(table, column: tl.constexpr):
    address = tl.load(table + tl.program_id(0).to(tl.int64) * _COLUMNS + column)
    return address.to(tl.pointer_type(tl.float32))


@triton.jit
def _inside(table, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    return place, place < tl.load(table + tl.program_id(0).to(tl.int64) * _COLUMNS + _COUNT)


@triton.jit
def _squares(table, out, BLOCK: tl.constexpr):
    place, inside = _inside(table, BLOCK)
    gradient = tl.load(_at(table, _GRADIENT) + place, mask=inside, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(gradient * gradient))


@triton.jit(do_not_specialize=["number"])
def _norm(sums, out, factor, number, most, BLOCK: tl.constexpr):
    """One program: the norm, and the factor by which PyTorch's `clip_grad_norm_` clips it, rounded as there."""
    place = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, number, BLOCK):
        total += tl.load(sums + start + place, mask=start + place < number, other=0.0)
    norm = tl.sqrt_rn(tl.sum(total))
    share = tl.div_rn(1.0, norm + 1e-6) * most
    tl.store(out, norm)
    tl.store(factor, tl.where(share > 1, 1.0, share))  # what is not a number stays so


@triton.jit
def _clear(table, BLOCK: tl.constexpr):
    place, inside = _inside(table, BLOCK)
    tl.store(_at(table, _GRADIENT) + place, tl.zeros((BLOCK,), dtype=tl.float32), mask=inside)


@triton.jit
def _adamw(
    table, decays, skipped, factor, log_beta1, log_beta2, share1, share2, eps, CLIP: tl.constexpr, BLOCK: tl.constexpr
):
    """`share` is ``1 - beta``. Gradients are clipped in a skipped step too, in memory, where methods read them.
    Counters go up afterwards, when no block reads them any more.
    """
    place, inside = _inside(table, BLOCK)
    gradient = tl.load(_at(table, _GRADIENT) + place, mask=inside, other=0.0)
    if CLIP:
        gradient *= tl.load(factor)
        tl.store(_at(table, _GRADIENT) + place, gradient, mask=inside)
    if tl.load(skipped) == 0:
        step = tl.load(_at(table, _STEP)).to(tl.float64) + 1
        rate, decay = tl.load(_at(table, _RATE)), tl.load(decays + tl.program_id(0))
        correction1 = (1 - tl.exp(step * log_beta1)).to(tl.float32)
        correction2 = tl.sqrt((1 - tl.exp(step * log_beta2)).to(tl.float32))
        weights, means, squares = _at(table, _WEIGHT) + place, _at(table, _MEAN) + place, _at(table, _SQUARE) + place
        weight = tl.load(weights, mask=inside, other=0.0)
        mean = tl.load(means, mask=inside, other=0.0)
        square = tl.load(squares, mask=inside, other=0.0)
        mean += share1 * (gradient - mean)
        square += share2 * (gradient * gradient - square)
        weight -= rate * decay * weight
        weight -= rate / correction1 * mean / (tl.sqrt(square) / correction2 + eps)
        tl.store(weights, weight, mask=inside)
        tl.store(means, mean, mask=inside)
        tl.store(squares, square, mask=inside)


@triton.jit(do_not_specialize=["number"])
def _count(steps, skipped, number, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.load(skipped) == 0:
        address = tl.load(steps + place, mask=place < number, other=0).to(tl.pointer_type(tl.float32))
        tl.store(address, tl.load(address, mask=place < number, other=0.0) + 1, mask=place < number)


Trained = tuple[nn.Parameter, tuple[torch.Tensor, ...], float]
"""A parameter; its gradient, moments, counter of steps and learning rate; its weight decay."""


def tensors_of(optimizer: torch.optim.Optimizer) -> list[Trained] | None:
    """All that has a gradient, of fused AdamW with learning rates on the device; None where groups differ in more than
    rate and decay, or where some is not fp32 in one order without gaps.

    Moments that are missing are made, of zeros: whoever loads moments finds such zeros too, and both go on alike.
    """
    groups = optimizer.param_groups
    odd = any(group["amsgrad"] or group["maximize"] for group in groups)
    if odd or len({(*group["betas"], group["eps"]) for group in groups}) > 1:
        return None
    trained = [(one, group) for group in groups for one in group["params"] if one.grad is not None]
    if not all(_is_block(one) and _alike(one, optimizer.state.get(one, {})) for one, _ in trained):
        return None
    found: list[Trained] = []
    for one, group in trained:
        if not (state := optimizer.state[one]):
            state["step"] = torch.zeros((), dtype=torch.float32, device=one.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(one), torch.zeros_like(one)
        tensors = one.grad, state["exp_avg"], state["exp_avg_sq"], state["step"], group["lr"]
        found.append((one, tensors, float(group["weight_decay"])))
    return found


def _alike(parameter: nn.Parameter, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether gradient and moments, if there are some, lie in memory as `parameter` does."""
    tensors = [
        tensor for tensor in (parameter.grad, state.get("exp_avg"), state.get("exp_avg_sq")) if tensor is not None
    ]
    return all(tensor.dtype == torch.float32 and tensor.stride() == parameter.stride() for tensor in tensors)


def _is_block(tensor: torch.Tensor) -> bool:
    """Whether its elements lie one after the other in memory, in whatever order of its dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return tensor.dtype == torch.float32


def addresses(optimizer: torch.optim.Optimizer) -> list[int]:
    """Where all of that lies, and what else a table is made by, to be compared."""
    found = []
    for group in optimizer.param_groups:
        settings = group["weight_decay"], *group["betas"], group["eps"], group["amsgrad"], group["maximize"]
        found += [group["lr"].data_ptr(), hash(settings)]
        for parameter in group["params"]:
            state: Mapping[str, torch.Tensor] = optimizer.state.get(parameter, {})
            tensors = (parameter, parameter.grad, *state.values())
            found += [parameter.numel(), *(0 if tensor is None else tensor.data_ptr() for tensor in tensors)]
    return found


class Blocks:
    """All that an optimiser trains and has gradients of, in blocks.

    Args:
        group: one of the optimiser's, which have betas and epsilon in common.
        found: `tensors_of` it, which stay where they are.
        device: theirs.
    """

    def __init__(self, group: Mapping[str, Any], found: Sequence[Trained], device: torch.device) -> None:
        rows = [torch.empty(0, _COLUMNS.value, dtype=torch.int64)]
        for parameter, (*alike, step, rate), _ in found:
            starts = torch.arange(0, parameter.numel(), BLOCK)
            moved = [tensor.data_ptr() + 4 * starts for tensor in (parameter, *alike)]
            same = [torch.full_like(starts, tensor.data_ptr()) for tensor in (step, rate)]
            rows.append(torch.stack([*moved, *same, (parameter.numel() - starts).clamp(max=BLOCK)], 1))
        counts = torch.tensor([len(some) for some in rows[1:]], dtype=torch.int64)
        decays = torch.tensor([decay for _, _, decay in found], dtype=torch.float32)
        steps = torch.tensor([tensors[3].data_ptr() for _, tensors, _ in found], dtype=torch.int64)
        made = {"table": torch.cat(rows), "steps": steps, "decays": decays.repeat_interleave(counts)}
        there = to_device(made, device)  # the host does not wait: after an event tables are made in an ordinary step
        self._table, self._steps, self._decays = there["table"], there["steps"], there["decays"]
        self._sums = torch.empty(len(self._table), device=device)
        self._norm, self._factor = torch.empty(2, device=device).unbind()
        self._clips = False
        (beta1, beta2), self._eps = group["betas"], group["eps"]
        # beta ** step is exp(step * log(beta)); a beta of 0 has no logarithm, and is 0 from the first step on
        self._logs = [math.log(beta) if beta else -1e30 for beta in (beta1, beta2)]
        self._shares = [1 - beta1, 1 - beta2]

    def clip(self, most: float | None) -> torch.Tensor:
        """The Euclidean norm of all gradients together; where it is above `most`, `step` first scales them to that."""
        launch(_squares, (len(self._table), 1, 1), self._table, self._sums, BLOCK=BLOCK)
        self._clips = most is not None
        limit = math.inf if most is None else float(most)
        numbers = self._sums, self._norm, self._factor, len(self._sums), limit
        launch(_norm, (1, 1, 1), *numbers, BLOCK=SUMS, num_warps=16)
        return self._norm

    def step(self, skipped: torch.Tensor) -> None:
        """AdamW's, unless `skipped`, a boolean scalar, says otherwise; clips gradients either way."""
        numbers = *self._logs, *self._shares, self._eps
        read = self._table, self._decays, skipped, self._factor
        launch(_adamw, (len(self._table), 1, 1), *read, *numbers, CLIP=self._clips, BLOCK=BLOCK)
        grid = triton.cdiv(len(self._steps), BLOCK), 1, 1
        launch(_count, grid, self._steps, skipped, len(self._steps), BLOCK=BLOCK)

    def clear(self) -> None:
        """All gradients become zero."""
        launch(_clear, (len(self._table), 1, 1), self._table, BLOCK=BLOCK)
