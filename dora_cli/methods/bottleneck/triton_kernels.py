"""`dora_cli.methods.bottleneck.kernels` in Triton: product, bias, activation and sum in one pass over the rows."""

from __future__ import annotations

from collections.abc import Hashable

import torch
import triton
import triton.language as tl

from dora_cli.methods.bottleneck.layer import Activation, Tensors
from dora_cli.methods.low_rank.arithmetic.triton_kernels import outer_rows, shared_memory
from dora_cli.methods.low_rank.arithmetic.triton_narrow import down_columns
from dora_cli.methods.triton_launch import Launch

MAX_BOTTLENECK = 128
"""Wider ones would not fit the registers of a block."""

_SLOPE, _CUBE = tl.constexpr(2 * 0.7978845608028654), tl.constexpr(0.044715)
"""Gelu's approximation by tanh is ``z sigmoid(2 sqrt(2 / pi) (z + 0.044715 z^3))``."""


# How rows are counted and sums are split makes no load wider: see `low_rank`'s kernels.


@triton.jit(do_not_specialize=["rows"])
def _into(
    x, factor, bias, z, out, rows, width, m,
    BACK: tl.constexpr, GELU: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``z = x factor^T + bias``, ``out = f(z)``; or, `BACK`, ``out = (x factor) f'(z)``, `factor` ``(width, m)``."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        part = tl.load(
            x + n[:, None].to(tl.int64) * width + d[None, :], mask=(n[:, None] < rows) & (d[None, :] < width), other=0.0
        )
        if BACK:
            weights = tl.load(
                factor + d[:, None] * m + r[None, :], mask=(d[:, None] < width) & (r[None, :] < m), other=0.0
            )
        else:
            weights = tl.trans(
                tl.load(
                    factor + r[:, None] * width + d[None, :], mask=(r[:, None] < m) & (d[None, :] < width), other=0.0
                )
            )
        total = tl.dot(part, weights, total, input_precision=PRECISION)
    place = n[:, None] * m + r[None, :]
    inside = (n[:, None] < rows) & (r[None, :] < m)
    if BACK:
        at = tl.load(z + place, mask=inside, other=0.0).to(tl.float32)
        if GELU:
            sigmoid = 1 / (1 + tl.exp((at + at * at * at * _CUBE) * -_SLOPE))
            total *= sigmoid + at * sigmoid * (1 - sigmoid) * (1 + at * at * 3 * _CUBE) * _SLOPE
        else:
            total = tl.where(at > 0, total, 0.0)
    else:
        total += tl.load(bias + r, mask=r < m, other=0.0).to(tl.float32)[None, :]
        tl.store(z + place, total.to(z.dtype.element_ty), mask=inside)
        if GELU:
            total /= 1 + tl.exp((total + total * total * total * _CUBE) * -_SLOPE)
        else:
            total = tl.maximum(total, 0.0)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _out_of(
    base, small, factor, bias, out, rows, width, m,
    BACK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """``out = base + small factor^T + bias``, `factor` ``(width, m)``; or, `BACK`, ``base + small factor``."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, BLOCK_M)
    part = tl.load(small + n[:, None] * m + r[None, :], mask=(n[:, None] < rows) & (r[None, :] < m), other=0.0)
    if BACK:
        weights = tl.load(
            factor + r[:, None] * width + d[None, :], mask=(r[:, None] < m) & (d[None, :] < width), other=0.0
        )
    else:
        weights = tl.trans(
            tl.load(factor + d[:, None] * m + r[None, :], mask=(d[:, None] < width) & (r[None, :] < m), other=0.0)
        )
    update = tl.dot(part, weights, input_precision=PRECISION)
    if not BACK:
        update += tl.load(bias + d, mask=d < width, other=0.0).to(tl.float32)[None, :]
    inside = (n[:, None] < rows) & (d[None, :] < width)
    place = n[:, None].to(tl.int64) * width + d[None, :]
    given = tl.load(base + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (given + update).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "splits"])
def _sums(
    weights, biases, small, x, rows, width, m, stride, splits,
    UP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds ``small^T x``, ``(m, width)``, and the sum of `small`; or, `UP`, its transpose and the sum of `x`."""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    r = tl.arange(0, BLOCK_M)
    result = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    of_small = tl.zeros((BLOCK_M,), dtype=tl.float32)
    of_x = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for start in range(tl.program_id(1) * BLOCK_N, rows, splits * BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        part = tl.load(small + n[:, None] * m + r[None, :], mask=(n[:, None] < rows) & (r[None, :] < m), other=0.0)
        wide = tl.load(
            x + n[:, None].to(tl.int64) * width + d[None, :], mask=(n[:, None] < rows) & (d[None, :] < width), other=0.0
        )
        result = tl.dot(tl.trans(part), wide, result, input_precision=PRECISION)
        if UP:
            of_x += tl.sum(wide.to(tl.float32), axis=0)
        else:
            of_small += tl.sum(part.to(tl.float32), axis=0)
    weights += tl.program_id(1).to(tl.int64) * stride
    biases += tl.program_id(1).to(tl.int64) * stride
    if UP:
        place = weights + d[:, None] * m + r[None, :]
        inside = (d[:, None] < width) & (r[None, :] < m)
        tl.store(place, tl.load(place, mask=inside, other=0.0) + tl.trans(result), mask=inside)
        tl.store(biases + d, tl.load(biases + d, mask=d < width, other=0.0) + of_x, mask=d < width)
    else:
        place = weights + r[:, None] * width + d[None, :]
        inside = (r[:, None] < m) & (d[None, :] < width)
        tl.store(place, tl.load(place, mask=inside, other=0.0) + result, mask=inside)
        if tl.program_id(0) == 0:
            tl.store(biases + r, tl.load(biases + r, mask=r < m, other=0.0) + of_small, mask=r < m)


class TritonKernels:
    """One launch each, two to collect.

    Args:
        device: CUDA, or the CPU in Triton's interpreter.
        width: of the rows.
    """

    exact = True

    def __init__(self, device: torch.device, width: int) -> None:
        self._memory = shared_memory(device)
        self._launches: dict[tuple[Hashable, ...], Launch] = {}
        self.splits = max(1, min(8, 12288 // width))

    def enter(self, y: torch.Tensor, own: Tensors, activation: Activation) -> tuple[torch.Tensor, torch.Tensor]:
        m = len(own.W_down)
        z, u = y.new_empty(len(y), m), y.new_empty(len(y), m)
        self._into(y, own.W_down, own.b_down, z, u, activation, back=False)
        return z, u

    def back_in(self, dy: torch.Tensor, z: torch.Tensor, W_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        dz = torch.empty_like(z)
        self._into(dy, W_up, W_up, z, dz, activation, back=True)
        return dz

    def leave(self, y: torch.Tensor, u: torch.Tensor, own: Tensors) -> torch.Tensor:
        return self._out_of(y, u, own.W_up, own.b_up, back=False)

    def back_out(self, dy: torch.Tensor, dz: torch.Tensor, W_down: torch.Tensor) -> torch.Tensor:
        return self._out_of(dy, dz, W_down, W_down, back=True)

    def collect(self, sums: Tensors, y: torch.Tensor, u: torch.Tensor, dy: torch.Tensor, dz: torch.Tensor) -> None:
        self._sums(sums.W_up, sums.b_up, u, dy, up=True)
        self._sums(sums.W_down, sums.b_down, dz, y, up=False)

    def _into(
        self,
        x: torch.Tensor,
        factor: torch.Tensor,
        bias: torch.Tensor,
        z: torch.Tensor,
        out: torch.Tensor,
        activation: Activation,
        *,
        back: bool,
    ) -> None:
        (rows, width), m, gelu = x.shape, out.shape[1], activation == "gelu"
        key = "into", rows, width, m, back, gelu, _kinds(x, factor, bias, z)
        launch = self._launches.get(key)
        if launch is None:
            block, columns = (32, 128) if rows >= 4096 else (16, 256)  # those of `low_rank`'s kernel of this shape
            columns = down_columns(block, columns, _block_m(m), x.element_size(), self._memory, stages=3)
            constants = back, gelu, _precision(x), block, _block_m(m), columns
            grid = triton.cdiv(rows, block), 1, 1
            launch = self._launches[key] = Launch(_into, grid, constants, num_warps=4, num_stages=3)
        launch(x, factor, bias, z, out, rows, width, m)

    def _out_of(
        self, base: torch.Tensor, small: torch.Tensor, factor: torch.Tensor, bias: torch.Tensor, *, back: bool
    ) -> torch.Tensor:
        (rows, width), m = base.shape, small.shape[1]
        out = torch.empty_like(base)
        key = "out of", rows, width, m, back, _kinds(base, small, factor, bias)
        launch = self._launches.get(key)
        if launch is None:
            columns = 64 if rows * width < 2**21 else 128
            grid = triton.cdiv(rows, 32), triton.cdiv(width, columns), 1
            constants = back, _precision(small), 32, _block_m(m), columns
            launch = self._launches[key] = Launch(_out_of, grid, constants, num_warps=4)
        launch(base, small, factor, bias, out, rows, width, m)
        return out

    def _sums(
        self, weights: torch.Tensor, biases: torch.Tensor, small: torch.Tensor, x: torch.Tensor, *, up: bool
    ) -> None:
        (rows, width), m = x.shape, small.shape[1]
        key = "sums", rows, width, m, up, weights.stride(0), _kinds(weights, biases, small, x)
        launch = self._launches.get(key)
        if launch is None:
            columns = 32 if width <= 1024 else 64
            block = outer_rows(128, columns, _block_m(m), x.element_size(), self._memory)
            grid = triton.cdiv(width, columns), min(self.splits, triton.cdiv(rows, block)), 1
            constants = up, _precision(x), block, _block_m(m), columns
            launch = self._launches[key] = Launch(_sums, grid, constants, num_warps=4, num_stages=3)
        launch(weights, biases, small, x, rows, width, m, weights.stride(0), launch.grid[1])


def _block_m(m: int) -> int:
    return max(16, 1 << (m - 1).bit_length())  # the least that a tensor core multiplies


def _precision(operand: torch.Tensor) -> str:
    return "ieee" if operand.dtype == torch.float32 else "tf32"  # tf32 only concerns fp32 operands


def _kinds(*tensors: torch.Tensor) -> tuple[tuple[torch.dtype, int], ...]:
    """What Triton compiles by: the types, and how far each begins from where a wide load can begin."""
    return tuple([(tensor.dtype, tensor.data_ptr() % 16) for tensor in tensors])
