"""`low_rank.arithmetic.kernels` in Triton: dropout, product and sum in one pass over the activations, masks drawn
again from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.arithmetic.dropout import (
    HASH_BITS,
    HASH_CALL,
    HASH_FIRST,
    HASH_LAST,
    HASH_SECOND,
    cut,
    refuse_in_backward,
    scale,
)
from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.arithmetic.triton_gelu import below, slope
from dora_cli.methods.low_rank.arithmetic.triton_narrow import (
    MANY_ROWS,
    across,
    added,
    along,
    down_blocks,
    multiplied,
    nothing,
)
from dora_cli.methods.low_rank.protocols import Rows
from dora_cli.methods.low_rank.same_input.products import ManyKernels
from dora_cli.methods.triton_launch import Launch

MAX_RANK = 128
"""Larger ranks would not fit the registers of a block."""

FEW_SPLITS = 4
"""Partial sums of an outer product of fewer rows: more would win less than it takes to collect them."""

_FIRST, _SECOND, _CALL = tl.constexpr(HASH_FIRST), tl.constexpr(HASH_SECOND), tl.constexpr(HASH_CALL)
_LAST0, _LAST1, _LAST2, _LAST3 = (tl.constexpr(multiplier) for multiplier in HASH_LAST)


@triton.jit
def keep(row, quad, column, seed, call, threshold: tl.constexpr):
    """See `dropout.hashed_keep`. A block draws in its columns ``column``, counted within it, from `quad` on; each
    thread has several of a quad, and hashes for all of them once.
    """
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32) ^ (call.to(tl.uint32) * _CALL)
    high = (high ^ (high >> 16)) * _FIRST
    high ^= high >> 15
    key = row.to(tl.uint32) + low
    key = (key ^ (key >> 16)) * _FIRST
    key = (key ^ (key >> 15)) * _SECOND
    value = (((quad + (column >> 2)).to(tl.uint32) * _CALL + high) ^ (key ^ (key >> 15))) * _FIRST
    place = column & 3
    last = tl.where(place < 2, tl.where(place == 0, _LAST0, _LAST1), tl.where(place == 2, _LAST2, _LAST3))
    return (value ^ (value >> 15)) * last.to(tl.uint32) >= threshold


@triton.jit
def _known(rank, WIDE: tl.constexpr):
    """`rank`, which the compiler is shown to be a multiple of 16 where that is so."""
    return rank // 16 * 16 if WIDE else rank


# Each kernel works on chunk `program_id(2)`: on `width` columns out of `stride`, and on `rank` of the small
# activations.
#
# Triton compiles a kernel again where an integer becomes 1, or a multiple of 16 or none, and where a pointer no longer
# begins at a multiple of 16 bytes, unless told that they do not matter. What decides how wide a load can be matters: a
# row's width and stride, and where tensors begin. What else changes within a run does not: the number of rows (the last
# batch of an epoch has few), how a sum is split, which use of a seed it is, and where that one number is. Ranks lie
# between: small activations load wide where all are multiples of 16, which `WIDE` says, and otherwise any rank will do.
#
# Rows beyond the last, and mostly components too, read the last once more instead of being masked, element by element:
# what comes of them is not stored, or meets zeros.


@triton.jit(do_not_specialize=["seeds", "call", "rows", "rank", "tied"])
def _down(
    x, factor, out, seeds, call, rows, width, rank, scale, stride, tied,
    WIDE: tl.constexpr, DROP: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr, TIED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    chunk, chunks, rank = tl.program_id(2), tl.num_programs(2), _known(rank, WIDE)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_R)
    seed = tl.load(seeds) if DROP else 0
    total, place, component = nothing(BLOCK_N, BLOCK_R, PARTS), across(PARTS, BLOCK_D), along(r, PARTS)
    x += along(tl.minimum(n, rows - 1), PARTS).to(tl.int64) * stride + chunk * width
    factor += (chunk * rank + tl.minimum(component, rank - 1)) * width
    for start in range(0, width, PARTS * BLOCK_D):
        d = start + place
        part = tl.load(x + d, mask=d < width, other=0.0)
        weights = tl.load(factor + d, mask=d < width, other=0.0)
        if TIED:
            undropped = tl.where(component < tied, weights, 0.0).to(weights.dtype)
            total = multiplied(part, undropped, total, PARTS, PRECISION)
            weights = tl.where(component < tied, 0.0, weights).to(weights.dtype)
        if DROP:
            quad = chunk * tl.cdiv(width, 4) + start // 4
            part = tl.where(keep(along(n, PARTS), quad, place, seed, call, THRESHOLD), part, 0.0)
        total = multiplied(part, weights, total, PARTS, PRECISION)
    result = added(total, PARTS)
    if TIED:
        result = tl.where(r[None, :] < tied, result, result * scale)
    else:
        result = result * scale
    tl.store(
        out + n[:, None] * (chunks * rank) + chunk * rank + r[None, :],
        result.to(out.dtype.element_ty),
        mask=(n[:, None] < rows) & (r[None, :] < rank),
    )


@triton.jit(do_not_specialize=["seeds", "call", "rows", "rank", "tied"])
def _up(
    base, u, factor, out, gelu, seeds, call, rows, width, rank, scale, stride, tied,
    WIDE: tl.constexpr, DROP: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr, TIED: tl.constexpr,
    GELU: tl.constexpr, GRADIENT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    chunk, chunks, rank = tl.program_id(2), tl.num_programs(2), _known(rank, WIDE)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    place = tl.arange(0, BLOCK_D)
    d = tl.program_id(1) * BLOCK_D + place
    r = tl.arange(0, BLOCK_R)
    column = chunk * width + d
    row, component = tl.minimum(n, rows - 1)[:, None], tl.minimum(r, rank - 1)
    small = tl.load(u + row * (chunks * rank) + chunk * rank + component[None, :])
    weights = tl.load(
        factor + (chunk * rank + component[:, None]) * width + d[None, :],
        mask=(r[:, None] < rank) & (d[None, :] < width),
        other=0.0,
    )
    if TIED:
        undropped = tl.where(r[None, :] < tied, small, 0.0).to(small.dtype)
        small = tl.where(r[None, :] < tied, 0.0, small).to(small.dtype)
    update = tl.dot(small, weights, input_precision=PRECISION) * scale
    if DROP:
        quad = chunk * tl.cdiv(width, 4) + tl.program_id(1) * (BLOCK_D // 4)
        update = tl.where(keep(n[:, None], quad, place[None, :], tl.load(seeds), call, THRESHOLD), update, 0.0)
    if TIED:
        update += tl.dot(undropped, weights, input_precision=PRECISION)
    element = row.to(tl.int64) * stride + column[None, :]
    given = tl.load(base + element, mask=d[None, :] < width, other=0.0).to(tl.float32)
    inside = (n[:, None] < rows) & (d[None, :] < width)
    total = (given + update).to(out.dtype.element_ty)
    if GELU:
        y = total.to(tl.float32)
        tl.store(gelu + element, (y * below(y, PRECISION == "ieee")).to(out.dtype.element_ty), mask=inside)
    if GRADIENT:
        y = tl.load(gelu + element, mask=d[None, :] < width, other=0.0).to(tl.float32)
        total = (total.to(tl.float32) * slope(y, PRECISION == "ieee")).to(out.dtype.element_ty)
    tl.store(out + element, total, mask=inside)


@triton.jit(do_not_specialize=["seeds", "call", "rows", "rank", "stride_u", "splits"])
def _outer(
    totals, u, x, seeds, call, rows, width, rank, scale, stride, stride_u, stride_totals, splits,
    WIDE: tl.constexpr, DROP: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    chunk, rank, stride_u = tl.program_id(2), _known(rank, WIDE), _known(stride_u, WIDE)
    place = tl.arange(0, BLOCK_D)
    d = tl.program_id(0) * BLOCK_D + place
    r = tl.arange(0, BLOCK_R)
    column, quad = chunk * width + d, chunk * tl.cdiv(width, 4) + tl.program_id(0) * (BLOCK_D // 4)
    component = chunk * rank + tl.minimum(r, rank - 1)[None, :]
    seed = tl.load(seeds) if DROP else 0
    result = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    for start in range(tl.program_id(1) * BLOCK_N, rows, splits * BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        row = tl.minimum(n, rows - 1)[:, None]
        small = tl.load(u + row * stride_u + component, mask=n[:, None] < rows, other=0.0)
        part = tl.load(x + row.to(tl.int64) * stride + column[None, :], mask=d[None, :] < width, other=0.0)
        if DROP:
            part = tl.where(keep(n[:, None], quad, place[None, :], seed, call, THRESHOLD), part, 0.0)
        result = tl.dot(tl.trans(small), part, result, input_precision=PRECISION)
    address = totals + tl.program_id(1) * stride_totals + (chunk * rank + r[:, None]) * width + d[None, :]
    inside = (r[:, None] < rank) & (d[None, :] < width)
    tl.store(address, tl.load(address, mask=inside, other=0.0) + result * scale, mask=inside)


@triton.jit
def _write(factor, row, out, place, start, width, scale, BLOCK: tl.constexpr):
    """Some columns of a row of `factor`, scaled, to row `place` of `out`, in its type."""
    d = start + tl.arange(0, BLOCK)
    part = tl.load(factor + row * width + d, mask=d < width, other=0.0) * scale
    tl.store(out + place * width + d, part.to(out.dtype.element_ty), mask=d < width)


@triton.jit
def _prepare(
    from_A, from_B_t, c, places, A, B_t, scaling, d_in, d_out,
    GATED: tl.constexpr, PLACED: tl.constexpr, COPIED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Blocks of a row of `A`, if that is `COPIED`, then of `B_t`."""
    row, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK
    place = tl.load(places + row) if PLACED else row
    end = tl.cdiv(d_in, BLOCK) * BLOCK if COPIED else 0
    if start < end:
        _write(from_A, row, A, place, start, d_in, 1.0, BLOCK)
    else:
        scale = tl.load(c + row) * scaling if GATED else scaling
        _write(from_B_t, row, B_t, place, start - end, d_out, scale, BLOCK)


@triton.jit(do_not_specialize=["splits"])
def _collect(totals, gradient, scaling, stride, width, splits, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    s = tl.arange(0, SPLITS)[:, None]
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(0).to(tl.int64) * width
    place = totals + s * stride + row + d[None, :]
    inside = (s < splits) & (d[None, :] < width)
    result = tl.sum(tl.load(place, mask=inside, other=0.0), axis=0)
    tl.store(place, tl.zeros((SPLITS, BLOCK), dtype=tl.float32), mask=inside)
    tl.store(
        gradient + row + d, tl.load(gradient + row + d, mask=d < width, other=0.0) + result * scaling, mask=d < width
    )


@triton.jit(do_not_specialize=["splits"])
def _collect_gated(
    totals, B_t, c, grad_B_t, grad_c, scaling, stride, width, splits, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    index = tl.program_id(0)
    row = index.to(tl.int64) * width
    s = tl.arange(0, SPLITS)[:, None]
    gate = tl.load(c + index) * scaling
    of_gate = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        place = totals + s * stride + row + d[None, :]
        inside = (s < splits) & (d[None, :] < width)
        raw = tl.sum(tl.load(place, mask=inside, other=0.0), axis=0)
        tl.store(place, tl.zeros((SPLITS, BLOCK), dtype=tl.float32), mask=inside)
        of_gate += raw * tl.load(B_t + row + d, mask=d < width, other=0.0)
        gradient = tl.load(grad_B_t + row + d, mask=d < width, other=0.0)
        tl.store(grad_B_t + row + d, gradient + raw * gate, mask=d < width)
    tl.store(grad_c + index, tl.load(grad_c + index) + scaling * tl.sum(of_gate))


class Seeded(NamedTuple):
    """A dropout that is drawn where it is used: its seed on the device, which use of the seed, what is dropped and the
    scale.
    """

    seed: torch.Tensor
    call: int
    threshold: int
    scale: float


class UsedSplits:
    """How many partial sums have been added to since they were collected, by where the sums of a group are."""

    def __init__(self) -> None:
        self._splits: dict[int, int] = {}

    def splits(self, totals: torch.Tensor, rows: int, block: int) -> int:
        """In how many to split so many rows, in blocks of `block`."""
        few = len(totals) if rows >= MANY_ROWS else FEW_SPLITS
        return min(len(totals), few, -(-rows // block))

    def note(self, totals: torch.Tensor, splits: int) -> None:
        """So many of `totals`, which may be some rows of a group's, are about to be added to."""
        place = totals.untyped_storage().data_ptr()
        self._splits[place] = max(splits, self._splits.get(place, 0))

    def take(self, totals: torch.Tensor) -> int:
        """How many of `totals` there are to collect: all where nobody has said."""
        return self._splits.pop(totals.untyped_storage().data_ptr(), len(totals))


class TritonKernels:
    """Seeds are drawn by one call per pass from the device's own generator, so captured graphs and resumed runs draw
    anew and alike.

    Args:
        wide: whether all ranks are multiples of 16.
        many: makes what computes several projections at once, of the seeds, the bytes that a block may have, and
            the splits that are used.
    """

    draws_alike = False
    multiple = 1
    launches = True

    def __init__(
        self,
        device: torch.device,
        projections: int,
        *,
        wide: bool = False,
        many: Callable[[torch.Tensor, int, UsedSplits], ManyKernels] | None = None,
    ) -> None:
        self._memory, self._wide, self._many = shared_memory(device), wide, many
        self._seeds = torch.zeros(projections, dtype=torch.int64, device=device)
        self._seed = self._seeds.unbind()
        self._calls = [0] * projections
        self._launches: dict[tuple[Hashable, ...], Launch] = {}
        self._used = UsedSplits()

    def many(self) -> ManyKernels | None:
        return None if self._many is None else self._many(self._seeds, self._memory, self._used)

    def begin(self) -> None:
        self._seeds.random_()
        self._calls = [0] * len(self._calls)

    def scale(self, probability: float) -> float:
        return 1.0

    def prepare(
        self,
        factors: Rows,
        A: torch.Tensor,
        B_t: torch.Tensor,
        scaling: float,
        *,
        scale: float = 1.0,
        places: torch.Tensor | None = None,
    ) -> None:
        assert scale == 1, "dropouts scale for themselves"
        from_A, from_B_t, c = factors
        (rows, d_in), (_, d_out) = from_A.shape, from_B_t.shape
        if not rows:
            return
        copied, gated, placed = A is not from_A, c is not None, places is not None
        tensors = from_A, from_B_t, from_B_t if c is None else c, from_B_t if places is None else places, A, B_t
        aligned = tuple([tensor.data_ptr() % 16 for tensor in tensors])
        key = "prepare", from_A.shape, from_B_t.shape, B_t.dtype, copied, gated, placed, aligned
        launch = self._launches.get(key)
        if launch is None:
            blocks = triton.cdiv(d_out, 512) + (triton.cdiv(d_in, 512) if copied else 0)
            constants = gated, placed, copied, 512
            launch = self._launches[key] = Launch(_prepare, (rows, blocks, 1), constants, num_warps=4)
        launch(*tensors, scaling, d_in, d_out)

    def drop(self, x: torch.Tensor, probability: float, index: int) -> Seeded | None:
        refuse_in_backward(
            "parts of its forward pass", "the adapters would not drop the same inputs twice", "method.dropout: 0"
        )
        threshold = cut(probability, HASH_BITS)
        self._calls[index] += 1
        call = self._calls[index]
        return Seeded(self._seed[index], call, threshold, scale(threshold, HASH_BITS)) if threshold else None

    def down(self, x: torch.Tensor, factor: Factor, drop: object, *, chunks: int = 1, tied: int = 0) -> torch.Tensor:
        ready = factor.ready
        (rows, stride), (components, width) = x.shape, ready.shape
        out = torch.empty(rows, components, dtype=x.dtype, device=x.device)
        seed, call, threshold, scale = drop if isinstance(drop, Seeded) else (x, 0, 0, 1.0)
        rank, keeps = components // chunks, tied > 0 and threshold > 0
        # how far each begins from where a wide load can begin: Triton compiles by that too
        places = x.data_ptr() % 16, ready.data_ptr() % 16
        key = "down", x.dtype, rows, stride, components, chunks, keeps, threshold, places
        launch = self._launches.get(key)
        if launch is None:
            sizes = block_r(rank), threshold, x.element_size(), self._memory
            blocks = down_blocks(rows, width, *sizes, tied=keeps)
            grid = triton.cdiv(rows, blocks.rows), 1, chunks
            divided = blocks.rows, block_r(rank), blocks.columns, blocks.parts
            constants = self._is_wide(rank), *settings(threshold, x), keeps, *divided
            launch = self._launches[key] = Launch(_down, grid, constants, **blocks.options)
        launch(x, ready, out, seed, call, rows, width, rank, scale, stride, tied)
        return out

    def up(
        self,
        base: torch.Tensor,
        u: torch.Tensor,
        factor: Factor,
        drop: object,
        out: torch.Tensor,
        *,
        chunks: int = 1,
        tied: int = 0,
        gelu: torch.Tensor | None = None,
        gelu_of: torch.Tensor | None = None,
    ) -> None:
        ready = factor.ready
        (rows, stride), (components, width) = base.shape, ready.shape
        other = gelu if gelu_of is None else gelu_of
        seed, call, threshold, scale = drop if isinstance(drop, Seeded) else (base, 0, 0, 1.0)
        rank, keeps = components // chunks, tied > 0 and threshold > 0
        places = base.data_ptr() % 16, u.data_ptr() % 16, ready.data_ptr() % 16
        to = out.dtype, out.data_ptr() % 16
        activates = gelu is not None, gelu_of is not None, 0 if other is None else other.data_ptr() % 16
        key = "up", base.dtype, rows, stride, components, chunks, keeps, threshold, places, to, activates
        launch = self._launches.get(key)
        if launch is None:
            columns = 64 if rows * stride < 2**21 else 128
            grid = triton.cdiv(rows, 32), triton.cdiv(width, columns), chunks
            constants = self._is_wide(rank), *settings(threshold, u), keeps, *activates[:2], 32, block_r(rank), columns
            launch = self._launches[key] = Launch(_up, grid, constants, num_warps=4)
        launch(base, u, ready, out, out if other is None else other, seed, call, rows, width, rank, scale, stride, tied)

    def _is_wide(self, *sizes: int) -> bool:
        """`WIDE`: what has ranks of both kinds would compile everything twice."""
        return self._wide and not any(size % 16 for size in sizes)

    def splits(self, width: int) -> int:
        """Enough blocks for all of a GPU's multiprocessors where a factor has few columns."""
        return max(1, min(8, 12288 // width))

    def outer(self, totals: torch.Tensor, u: torch.Tensor, x: torch.Tensor, drop: object, *, chunks: int = 1) -> None:
        (rows, stride), (most, components, width) = x.shape, totals.shape
        seed, call, threshold, scale = drop if isinstance(drop, Seeded) else (x, 0, 0, 1.0)
        rank, strides = components // chunks, (stride, u.stride(0), totals.stride(0))
        places = totals.data_ptr() % 16, u.data_ptr() % 16, x.data_ptr() % 16
        key = "outer", x.dtype, rows, components, chunks, threshold, most, strides, places
        launch = self._launches.get(key)
        if launch is None:
            block, columns, stages = outer_blocks(rows, block_r(rank), threshold, x.element_size(), self._memory)
            grid = triton.cdiv(width, columns), self._used.splits(totals, rows, block), chunks
            wide = self._is_wide(rank, u.stride(0))
            constants = wide, *settings(threshold, x), block, block_r(rank), columns
            launch = self._launches[key] = Launch(_outer, grid, constants, num_warps=4, num_stages=stages)
        self._used.note(totals, launch.grid[1])
        launch(totals, u, x, seed, call, rows, width, rank, scale, *strides, launch.grid[1])

    def collect(self, totals: torch.Tensor, gradient: torch.Tensor, scaling: float = 1.0) -> None:
        (most, rows, width), places = totals.shape, (totals.data_ptr() % 16, gradient.data_ptr() % 16)
        key = "collect", totals.shape, places
        launch = self._launches.get(key)
        if launch is None:
            grid, constants = (rows, triton.cdiv(width, 512), 1), (triton.next_power_of_2(most), 512)
            launch = self._launches[key] = Launch(_collect, grid, constants, num_warps=4)
        launch(totals, gradient, scaling, totals.stride(0), width, self._used.take(totals))

    def collect_gated(
        self,
        totals: torch.Tensor,
        B_t: torch.Tensor,
        c: torch.Tensor,
        grad_B_t: torch.Tensor,
        grad_c: torch.Tensor,
        scaling: float,
    ) -> None:
        most, rows, width = totals.shape
        key = (
            "collect gated",
            totals.shape,
            tuple([tensor.data_ptr() % 16 for tensor in (totals, B_t, c, grad_B_t, grad_c)]),
        )
        launch = self._launches.get(key)
        if launch is None:
            constants = triton.next_power_of_2(most), 1024
            launch = self._launches[key] = Launch(_collect_gated, (rows, 1, 1), constants, num_warps=8)
        launch(totals, B_t, c, grad_B_t, grad_c, scaling, totals.stride(0), width, self._used.take(totals))


@cache
def obstacle() -> str | None:
    """Why no kernel can be launched here; None where they can.

    Triton compiles what launches its kernels by a C compiler with Python's headers, which small images lack.
    """
    try:
        _device_properties(torch.cuda.current_device())
    except Exception as error:  # of many kinds: no compiler, one that fails, a driver that is too old
        return next(iter(str(error).splitlines()), type(error).__name__)
    return None


def _device_properties(index: int) -> dict[str, Any]:
    found: dict[str, Any] = triton.runtime.driver.active.utils.get_device_properties(index)
    return found


def shared_memory(device: torch.device) -> int:
    """Bytes that a block may have: 227 KiB on an H100, 99 KiB on cards for games."""
    if device.type != "cuda":  # Triton's interpreter
        return 1 << 20
    return int(
        _device_properties(torch.cuda.current_device() if device.index is None else device.index)["max_shared_mem"]
    )


def outer_blocks(rows: int, block_r: int, threshold: int, size: int, memory: int) -> tuple[int, int, int]:
    """Rows and columns of a block of `_outer`, and stages of its loop, found as those of `down_blocks`."""
    block, columns, stages = (128, 64, 2) if rows >= MANY_ROWS and not threshold else (256, 32, 2)
    return outer_rows(block, columns, block_r, size, memory, stages), columns, stages


def outer_rows(block: int, columns: int, block_r: int, size: int, memory: int, stages: int = 3) -> int:
    """`block`, or as many rows as `_outer` has `memory` for: all stages of both operands, and one more of what is
    dropped.
    """
    while block > 16 and size * block * (stages * (block_r + columns) + columns) > memory:
        block //= 2
    return block


def block_r(rank: int) -> int:
    return max(16, 1 << (rank - 1).bit_length())  # the least that a tensor core multiplies


def settings(threshold: int, operand: torch.Tensor) -> tuple[bool, int, str]:
    """`DROP`, `THRESHOLD` and `PRECISION`."""
    return threshold > 0, threshold, "ieee" if operand.dtype == torch.float32 else "tf32"  # that only concerns fp32
