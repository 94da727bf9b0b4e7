"""`ManyKernels` in Triton: one launch for two or three projections that read the same input."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.arithmetic.triton_kernels import (
    Seeded,
    UsedSplits,
    block_r,
    keep,
    outer_blocks,
    settings,
)
from dora_cli.methods.low_rank.arithmetic.triton_narrow import across, added, along, down_blocks, multiplied, nothing
from dora_cli.methods.low_rank.same_input.products import MANY, Wide
from dora_cli.methods.triton_launch import Launch

T = TypeVar("T")


# What each of the projections has of its own is an argument each, numbered; a block works on one of them. Two of them
# give the first one's twice. For what is not specialised see `low_rank.triton_kernels`; the small activations of
# several projections stand beside each other here, and load one by one for any ranks. Some may have rank 0, so that
# components are masked.


@triton.jit
def _of(which, first, second, third):
    return tl.where(which == 0, first, tl.where(which == 1, second, third))


@triton.jit(do_not_specialize=[
    "seeds", "call0", "call1", "call2", "seed0", "seed1", "seed2", "rank0", "rank1", "rank2",
    "place0", "place1", "place2", "stride_out", "rows",
])  # fmt: skip
def _down(
    x, factor0, factor1, factor2, out, seeds, call0, call1, call2, seed0, seed1, seed2, rank0, rank1, rank2,
    place0, place1, place2, stride_out, rows, start0, start1, start2, stride0, stride1, stride2,
    width0, width1, width2, scale,
    DROP: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(1)
    factor = factor0
    if which == 1:
        factor = factor1
    if which == 2:
        factor = factor2
    start, stride = _of(which, start0, start1, start2), _of(which, stride0, stride1, stride2)
    width, rank = _of(which, width0, width1, width2), _of(which, rank0, rank1, rank2)
    call, place = _of(which, call0, call1, call2), _of(which, place0, place1, place2)
    seed = tl.load(seeds + _of(which, seed0, seed1, seed2)) if DROP else 0
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_R)
    total, column, component = nothing(BLOCK_N, BLOCK_R, PARTS), across(PARTS, BLOCK_D), along(r, PARTS)
    x += start + along(tl.minimum(n, rows - 1), PARTS).to(tl.int64) * stride
    factor += component * width
    for begin in range(0, width, PARTS * BLOCK_D):
        d = begin + column
        part = tl.load(x + d, mask=d < width, other=0.0)
        weights = tl.load(factor + d, mask=(component < rank) & (d < width), other=0.0)
        if DROP:
            part = tl.where(keep(along(n, PARTS), begin // 4, column, seed, call, THRESHOLD), part, 0.0)
        total = multiplied(part, weights, total, PARTS, PRECISION)
    result = added(total, PARTS) * scale
    tl.store(
        out + n[:, None] * stride_out + place + r[None, :],
        result.to(out.dtype.element_ty),
        mask=(n[:, None] < rows) & (r[None, :] < rank),
    )


@triton.jit(do_not_specialize=[
    "rank0", "rank1", "rank2", "place0", "place1", "place2", "stride_u", "block1", "block2", "rows",
])  # fmt: skip
def _up(
    base, u, factor0, factor1, factor2, out, rank0, rank1, rank2, place0, place1, place2, stride_u, block1, block2,
    rows, start0, start1, start2, stride0, stride1, stride2, width0, width1, width2,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(1)
    which = tl.where(block >= block1, 1, 0) + tl.where(block >= block2, 1, 0)
    block -= _of(which, 0, block1, block2)
    factor = factor0
    if which == 1:
        factor = factor1
    if which == 2:
        factor = factor2
    start, stride = _of(which, start0, start1, start2), _of(which, stride0, stride1, stride2)
    width, rank = _of(which, width0, width1, width2), _of(which, rank0, rank1, rank2)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    update = _update(
        u + _of(which, place0, place1, place2), factor, stride_u, n, d, rows, width, rank, PRECISION, BLOCK_R
    )
    place = start + tl.minimum(n, rows - 1)[:, None].to(tl.int64) * stride + d[None, :]
    given = tl.load(base + place, mask=d[None, :] < width, other=0.0).to(tl.float32)
    inside = (n[:, None] < rows) & (d[None, :] < width)
    tl.store(out + place, (given + update).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _update(u, factor, stride_u, n, d, rows, width, rank, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr):
    r = tl.arange(0, BLOCK_R)
    row = tl.minimum(n, rows - 1)[:, None]
    small = tl.load(u + row * stride_u + r[None, :], mask=r[None, :] < rank, other=0.0)
    weights = tl.load(
        factor + r[:, None] * width + d[None, :], mask=(r[:, None] < rank) & (d[None, :] < width), other=0.0
    )
    return tl.dot(small, weights, input_precision=PRECISION)


@triton.jit(do_not_specialize=[
    "seeds", "call0", "call1", "call2", "seed0", "seed1", "seed2", "rank0", "rank1", "rank2",
    "place0", "place1", "place2", "stride_u", "rows",
])  # fmt: skip
def _up_sum(
    base, u, factor0, factor1, factor2, out, seeds, call0, call1, call2, seed0, seed1, seed2, rank0, rank1, rank2,
    place0, place1, place2, stride_u, rows, width, scale,
    COUNT: tl.constexpr, DROP: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    quad, column = tl.program_id(1) * (BLOCK_D // 4), tl.arange(0, BLOCK_D)
    d = tl.program_id(1) * BLOCK_D + column
    place = tl.minimum(n, rows - 1)[:, None].to(tl.int64) * width + d[None, :]
    row, column = n[:, None], column[None, :]
    update = _update(u + place0, factor0, stride_u, n, d, rows, width, rank0, PRECISION, BLOCK_R)
    if DROP:
        update = tl.where(keep(row, quad, column, tl.load(seeds + seed0), call0, THRESHOLD), update, 0.0)
    second = _update(u + place1, factor1, stride_u, n, d, rows, width, rank1, PRECISION, BLOCK_R)
    if DROP:
        second = tl.where(keep(row, quad, column, tl.load(seeds + seed1), call1, THRESHOLD), second, 0.0)
    update += second
    if COUNT == 3:
        third = _update(u + place2, factor2, stride_u, n, d, rows, width, rank2, PRECISION, BLOCK_R)
        if DROP:
            third = tl.where(keep(row, quad, column, tl.load(seeds + seed2), call2, THRESHOLD), third, 0.0)
        update += third
    given = tl.load(base + place, mask=d[None, :] < width, other=0.0).to(tl.float32)
    inside = (row < rows) & (d[None, :] < width)
    tl.store(out + place, (given + update * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[
    "seeds", "call0", "call1", "call2", "seed0", "seed1", "seed2", "rank0", "rank1", "rank2",
    "place0", "place1", "place2", "stride_u", "block1", "block2", "splits0", "splits1", "splits2", "rows",
])  # fmt: skip
def _outer(
    totals0, totals1, totals2, u, x, seeds, call0, call1, call2, seed0, seed1, seed2, rank0, rank1, rank2,
    place0, place1, place2, stride_u, block1, block2, splits0, splits1, splits2,
    rows, start0, start1, start2, stride0, stride1, stride2, width0, width1, width2, apart0, apart1, apart2, scale,
    DROP: tl.constexpr, THRESHOLD: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    block, split = tl.program_id(0), tl.program_id(1)
    which = tl.where(block >= block1, 1, 0) + tl.where(block >= block2, 1, 0)
    block -= _of(which, 0, block1, block2)
    totals = totals0
    if which == 1:
        totals = totals1
    if which == 2:
        totals = totals2
    start, stride = _of(which, start0, start1, start2), _of(which, stride0, stride1, stride2)
    width, apart = _of(which, width0, width1, width2), _of(which, apart0, apart1, apart2)
    call, place = _of(which, call0, call1, call2), _of(which, place0, place1, place2)
    splits = _of(which, splits0, splits1, splits2)
    has_work = split < splits
    rank = tl.where(has_work, _of(which, rank0, rank1, rank2), 0)
    seed = tl.load(seeds + _of(which, seed0, seed1, seed2)) if DROP else 0
    column = tl.arange(0, BLOCK_D)
    d = block * BLOCK_D + column
    r = tl.arange(0, BLOCK_R)
    result = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    for begin in range(split * BLOCK_N, tl.where(rank > 0, rows, 0), splits * BLOCK_N):
        n = begin + tl.arange(0, BLOCK_N)
        row = tl.minimum(n, rows - 1)[:, None]
        small = tl.load(
            u + row * stride_u + place + r[None, :], mask=(n[:, None] < rows) & (r[None, :] < rank), other=0.0
        )
        part = tl.load(x + start + row.to(tl.int64) * stride + d[None, :], mask=d[None, :] < width, other=0.0)
        if DROP:
            quad = block * (BLOCK_D // 4)
            part = tl.where(keep(n[:, None], quad, column[None, :], seed, call, THRESHOLD), part, 0.0)
        result = tl.dot(tl.trans(small), part, result, input_precision=PRECISION)
    address = totals + split * apart + r[:, None] * width + d[None, :]
    inside = (r[:, None] < rank) & (d[None, :] < width)
    tl.store(address, tl.load(address, mask=inside, other=0.0) + result * scale, mask=inside)


class TritonMany:
    """One launch for two or three projections.

    Args:
        seeds: of all dropouts; those of `TritonKernels.drop` are views of it.
        memory: bytes that a block may have.
        used: told what `outer` adds to, for `TritonKernels` to collect.
    """

    def __init__(self, seeds: torch.Tensor, memory: int, used: UsedSplits) -> None:
        self._seeds, self._memory, self._used = seeds, memory, used
        self._launches: dict[
            tuple[Hashable, ...], tuple[Launch, tuple[int, ...]]
        ] = {}  # with what follows from the key

    def down(self, x: Wide, factors: Sequence[Factor], drops: Sequence[object]) -> Wide:
        ranks = tuple(factor.rank for factor in factors)
        total = sum(ranks)
        out = torch.empty(x.rows * total, dtype=x.memory.dtype, device=x.memory.device)
        u = Wide.beside(out, x.rows, ranks)
        numbers, threshold, scale = _dropouts(drops)
        ready = _three([factor.ready for factor in factors])
        lies = x.rows, *_three(x.starts), *_three(x.strides), *_three(x.widths)
        block_rank = block_r(max(ranks))
        key = "down", x.memory.dtype, lies, len(ranks), block_rank, threshold, _places(x.memory, *ready, out)
        known = self._launches.get(key)
        if known is None:
            sizes = block_rank, threshold, x.memory.element_size(), self._memory
            blocks = down_blocks(x.rows, max(x.widths), *sizes)
            grid = triton.cdiv(x.rows, blocks.rows), len(ranks), 1
            constants = *settings(threshold, x.memory), blocks.rows, block_rank, blocks.columns, blocks.parts
            known = self._launches[key] = Launch(_down, grid, constants, **blocks.options), ()
        small = *_three(ranks), *_three(u.starts), total
        known[0](x.memory, *ready, out, self._seeds, *numbers, *small, *lies, scale)
        return u

    def up(self, base: Wide, u: Wide, factors: Sequence[Factor], out: Wide) -> None:
        assert base.starts == out.starts and base.strides == out.strides
        ready = _three([factor.ready for factor in factors])
        lies = base.rows, *_three(base.starts), *_three(base.strides), *_three(base.widths)
        block_rank = block_r(max(u.widths))
        places = _places(base.memory, u.memory, *ready, out.memory)
        key = "up", base.memory.dtype, out.memory.dtype, lies, len(u.widths), block_rank, places
        known = self._launches.get(key)
        if known is None:
            firsts, blocks = _blocks(base.widths, 128)
            grid = triton.cdiv(base.rows, 32), blocks, 1
            constants = settings(0, u.memory)[2], 32, block_rank, 128
            known = self._launches[key] = Launch(_up, grid, constants, num_warps=8), firsts
        launch, firsts = known
        small = *_three(u.widths), *_three(u.starts), u.strides[0], *firsts
        launch(base.memory, u.memory, *ready, out.memory, *small, *lies)

    def up_sum(
        self, base: torch.Tensor, u: Wide, factors: Sequence[Factor], drops: Sequence[object], out: torch.Tensor
    ) -> None:
        rows, width = base.shape
        numbers, threshold, scale = _dropouts(drops)
        ready = _three([factor.ready for factor in factors])
        block_rank = block_r(max(u.widths))
        places = _places(base, u.memory, *ready, out)
        key = "up_sum", base.dtype, out.dtype, rows, width, len(factors), block_rank, threshold, places
        known = self._launches.get(key)
        if known is None:
            block = 16 if rows * width < 2**21 else 32
            grid = triton.cdiv(rows, block), triton.cdiv(width, 128), 1
            constants = len(factors), *settings(threshold, u.memory), block, block_rank, 128
            known = self._launches[key] = Launch(_up_sum, grid, constants, num_warps=4), ()
        small = *_three(u.widths), *_three(u.starts), u.strides[0]
        known[0](base, u.memory, *ready, out, self._seeds, *numbers, *small, rows, width, scale)

    def outer(self, totals: Sequence[torch.Tensor | None], u: Wide, x: Wide, drops: Sequence[object]) -> None:
        some = next(total for total in totals if total is not None)
        sums = _three([some if total is None else total for total in totals])
        ranks = tuple(0 if total is None else rank for total, rank in zip(totals, u.widths, strict=True))
        numbers, threshold, scale = _dropouts(drops)
        lies = x.rows, *_three(x.starts), *_three(x.strides), *_three(x.widths)
        apart = tuple(total.stride(0) for total in sums)
        block_rank, most = block_r(max(ranks)), tuple(len(total) for total in sums)
        places = _places(*sums, u.memory, x.memory)
        key = "outer", x.memory.dtype, lies, len(totals), block_rank, threshold, most, apart, places
        known = self._launches.get(key)
        if known is None:
            sizes = block_rank, threshold, x.memory.element_size(), self._memory
            block, columns, stages = outer_blocks(x.rows, *sizes)
            splits = tuple(self._used.splits(total, x.rows, block) for total in sums)
            firsts, blocks = _blocks(x.widths, columns)
            grid = blocks, max(splits), 1
            constants = *settings(threshold, x.memory), block, block_rank, columns
            launch = Launch(_outer, grid, constants, num_warps=4, num_stages=stages)
            known = self._launches[key] = launch, (*firsts, *splits)
        launch, follows = known
        for total, count in zip(totals, follows[2:], strict=False):
            if total is not None:
                self._used.note(total, count)
        small = *_three(ranks), *_three(u.starts), u.strides[0], *follows
        launch(*sums, u.memory, x.memory, self._seeds, *numbers, *small, *lies, *apart, scale)


def _three(items: Sequence[T]) -> tuple[T, T, T]:
    """Three of them: of two the first once more."""
    return items[0], items[1], items[2] if len(items) == MANY else items[0]


def _places(*tensors: torch.Tensor) -> tuple[int, ...]:
    """How far each begins from where a wide load can begin: Triton compiles by that too."""
    return tuple(tensor.data_ptr() % 16 for tensor in tensors)


def _dropouts(drops: Sequence[object]) -> tuple[tuple[int, ...], int, float]:
    """Calls and numbers of the seeds, the threshold and the scale, which all have in common that drop."""
    seeded = [drop if isinstance(drop, Seeded) else None for drop in drops]
    first = next(filter(None, seeded), None)
    calls = _three([0 if drop is None else drop.call for drop in seeded])
    numbers = _three([0 if drop is None else int(drop.seed.storage_offset()) for drop in seeded])
    return (*calls, *numbers), *((0, 1.0) if first is None else (first.threshold, first.scale))


def _blocks(widths: Sequence[int], columns: int) -> tuple[tuple[int, ...], int]:
    """The first block of columns of the second and of the third, and how many there are in all."""
    counts = [triton.cdiv(width, columns) for width in widths]
    total = sum(counts)
    return (counts[0], counts[0] + counts[1] if len(counts) == MANY else total), total
