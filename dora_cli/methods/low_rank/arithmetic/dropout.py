"""Dropout that is drawn fast: for the adapters' inputs and, on the CPU, wherever the base model drops out.

Seeds come from torch's own generator of the device, so that a resumed run draws what the straight one drew. On the CPU
a mask comes from a SFC64 stream, 16 bits an input; on the GPU a kernel hashes seed and position, 32 bits an input, and
draws a mask again instead of storing it. Either way kept inputs are scaled by the inverse of the probability that the
bits really give, so the expectation is exact.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from dora_cli.errors import ModelError

_BITS_CPU = 16
_AT_ONCE = 4 * 2**15  # inputs; their 256 KiB of random bits stay in the cache, and their memory is used again
HASH_BITS = 32

# A multiply, shift and xor hash of 32-bit counters.
HASH_FIRST, HASH_SECOND, HASH_CALL = 0x21F0AAAD, 0x735A2D97, 0x9E3779B9
HASH_LAST = HASH_SECOND, 0x50AB0CC9, 0xBDBDE515, 0x3646E2A3
"""Multipliers of the last round, one for each column of four that share the rounds before it: those of 20,000 draws of
which any two make the most even lattice of 32-bit pairs (its shortest vector is 0.84 of the longest that there can be).
"""
_MASK = 0xFFFFFFFF


def draw_mask(shape: torch.Size, probability: float) -> tuple[torch.Tensor, float]:
    """On the CPU: which inputs are kept, 0 or 1 in uint8 (which becomes a number faster than bool does), and the scale
    of what is.

    Every mask has a seed of its own from torch's generator: a checkpoint, which restores that one and computes again,
    sees the same.
    """
    bits = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
    threshold = cut(probability, _BITS_CPU)
    below = np.int16(threshold - 2 ** (_BITS_CPU - 1))
    kept = np.empty(shape.numel(), dtype=np.bool_)
    for start in range(0, len(kept), _AT_ONCE):
        part = kept[start : start + _AT_ONCE]
        np.greater_equal(bits.random_raw(-(-len(part) // 4)).view(np.int16)[: len(part)], below, out=part)
    return torch.from_numpy(kept.view(np.uint8)).view(shape), scale(threshold, _BITS_CPU)


def cpu_scale(probability: float) -> float:
    """The scale that `draw_mask` gives."""
    return scale(cut(probability, _BITS_CPU), _BITS_CPU)


class ModelDropouts:
    """The base model's own `nn.Dropout` on the CPU, drawn as the adapters' are: PyTorch's own takes ten times as long
    there.

    Between `begin` and `end` the modules compute so, in training mode; before and after they are as they were.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [module for module in model.modules() if type(module) is nn.Dropout]
        self._begun: list[nn.Dropout] = []

    def begin(self) -> None:
        for module in self._modules:
            if "forward" not in vars(module):  # else somebody has replaced it: it stays theirs
                module.forward = partial(_drop, module)  # type: ignore[method-assign]
                self._begun.append(module)

    def end(self) -> None:
        for module in self._begun:
            if is_drawn_fast(module):
                del module.forward
        self._begun.clear()


def is_drawn_fast(module: nn.Dropout) -> bool:
    """Whether a pass that `ModelDropouts` has begun computes it."""
    return getattr(vars(module).get("forward"), "func", None) is _drop


def _drop(module: nn.Dropout, x: torch.Tensor) -> torch.Tensor:
    if not module.training or module.inplace or not 0 < module.p < 1 or x.device.type != "cpu":
        return nn.Dropout.forward(module, x)
    y: torch.Tensor = _Dropped.apply(x, *draw_mask(x.shape, module.p))  # type: ignore[no-untyped-call]
    return y


class _Dropped(torch.autograd.Function):
    """``scale * mask * x``; a byte an input is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.empty_like(x).copy_(mask).mul_(x).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.empty_like(gradient).copy_(mask).mul_(gradient).mul_(ctx.scale), None, None


def refuse_in_backward(again: str, what: str, fix: str) -> None:
    """Raises ModelError within a backward pass: a dropout that counts its uses would be another one there.

    Args:
        again: what a model computes there once more, in words.
        what: would be dropped otherwise than before.
        fix: what else helps, a setting.
    """
    if torch._C._current_graph_task_id() != -1:
        raise computed_twice(again, what, fix)


def computed_twice(again: str, what: str, fix: str) -> ModelError:
    """The error of it; for the arguments see `refuse_in_backward`."""
    return ModelError(
        f"the model computes {again} again within the backward pass (activation checkpointing) without saying so, and "
        f"{what}; turn that off in the model, or set {fix}"
    )


def cut(probability: float, bits: int) -> int:
    """How many of ``2^bits`` values drop an input: all below this. At least one keeps it."""
    return min(round(probability * (1 << bits)), (1 << bits) - 1)


def scale(threshold: int, bits: int) -> float:
    """What makes the expectation exact: ``1 / (1 - threshold / 2^bits)``."""
    return (1 << bits) / ((1 << bits) - threshold)


def hashed_keep(
    rows: int, columns: int, seed: torch.Tensor, call: int, threshold: int, *, chunks: int = 1
) -> torch.Tensor:
    """The mask that the GPU's kernels draw, in plain tensor operations: their reference in tests, ``(rows, columns)``.

    A round for each call, two for each row, two for each row and four columns, of which the second differs between
    these.

    Args:
        seed: int64 scalar.
        call: which use of the seed within a pass.
        threshold: from `cut` with `HASH_BITS`.
        chunks: equal parts of the columns, each of which begins with a new four.
    """
    low, high = int(seed) & _MASK, ((int(seed) >> 32) ^ (call * HASH_CALL)) & _MASK
    high = ((high ^ (high >> 16)) * HASH_FIRST) & _MASK
    high ^= high >> 15
    row = (torch.arange(rows)[:, None] + low) & _MASK
    row = ((row ^ (row >> 16)) * HASH_FIRST) & _MASK
    row = ((row ^ (row >> 15)) * HASH_SECOND) & _MASK
    width = columns // chunks
    chunk, place = torch.arange(columns) // width, torch.arange(columns) % width
    fours = chunk * -(-width // 4) + place // 4
    column = (fours * HASH_CALL + high) & _MASK
    value = ((column ^ row ^ (row >> 15)) * HASH_FIRST) & _MASK
    value = ((value ^ (value >> 15)) * torch.tensor(HASH_LAST)[place % 4]) & _MASK
    return value >= threshold
