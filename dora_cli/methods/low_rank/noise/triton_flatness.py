"""`dora_cli.methods.low_rank.noise.flatness` in Triton: noise drawn while a weight is copied, and its deviations, for
one projection or all of a shape at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
import triton
import triton.language as tl

from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.arithmetic.dropout import HASH_FIRST, HASH_SECOND
from dora_cli.methods.low_rank.protocols import Layer

_FIRST, _SECOND = tl.constexpr(HASH_FIRST), tl.constexpr(HASH_SECOND)
_UNIT, _HALF, _QUARTER = tl.constexpr(2.0**-32), tl.constexpr(2.0**-33), tl.constexpr(math.pi * 2.0**-31)

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_ROWS, _COLUMNS = 8, 128  # of a block's tile, twice, when noise is drawn
_NORM_ROWS, _NORM_COLUMNS, _NORM_RANK = 16, 128, 16


@triton.jit
def _mixed(value):
    """See `flatness._mixed`."""
    value = (value ^ (value >> 16)) * _FIRST
    value = (value ^ (value >> 15)) * _SECOND
    return value ^ (value >> 15)


@triton.jit
def _word(clock, index: tl.constexpr, number):
    """See `flatness.key`."""
    step = tl.load(clock + 2).to(tl.uint32)
    return _mixed(_mixed(tl.load(clock + index).to(tl.uint32) + step) + number.to(tl.uint32))


@triton.jit
def _hashed(index, first, second):
    """See `flatness._hashed`."""
    value = index + first
    value = (value ^ (value >> 16)) * _FIRST
    value = (value ^ (value >> 15) ^ second) * _SECOND
    value = (value ^ (value >> 15)) * _FIRST
    return value ^ (value >> 16)


@triton.jit
def _direction(word):
    """Cosine and sine of the angle that `flatness.hashed_normals` makes of a word: its first two bits say which quarter
    of the circle, the others where within 45 degrees of the middle of it, where short series will do.
    """
    a = ((word & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(tl.float32) * _QUARTER
    square = a * a
    series = 0.16666667 - square * (0.0083333333 - square * (0.00019841270 - square * 2.7557319e-6))
    sine = a - a * square * series
    series = 0.5 - square * (0.041666667 - square * (0.0013888889 - square * 2.4801587e-5))
    cosine = 1.0 - square * series
    quarter = word >> 30
    turned = (quarter & 1) == 1
    first, second = tl.where(turned, sine, cosine), tl.where(turned, cosine, sine)
    first = tl.where((quarter == 1) | (quarter == 2), -first, first)
    return first, tl.where(quarter >= 2, -second, second)


@triton.jit
def _perturb_tile(
    weight, out, deviations, clock, number, d_out, d_in, half, row, column, out_row, out_column,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """A tile of the first half of the rows' columns, and the one of the second half whose normals come in pairs with
    it.
    """
    i = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    index = (i[:, None] * half + j[None, :]).to(tl.uint32)
    first, second = _word(clock, 0, number), _word(clock, 1, number)
    uniform = _hashed(index, first, second).to(tl.float32) * _UNIT + _HALF
    cosine, sine = _direction(_hashed(index, second, first))
    radius = tl.sqrt(-2.0 * tl.log(uniform)) * tl.load(deviations + i, mask=i < d_out, other=0.0)[:, None]
    i64, j64 = i[:, None].to(tl.int64), j[None, :].to(tl.int64)
    inside = (i[:, None] < d_out) & (j[None, :] < half)
    given = tl.load(weight + i64 * row + j64 * column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + i64 * out_row + j64 * out_column, (given + radius * cosine).to(out.dtype.element_ty), mask=inside)
    j64 = (j + half)[None, :].to(tl.int64)
    inside = (i[:, None] < d_out) & ((j + half)[None, :] < d_in)
    given = tl.load(weight + i64 * row + j64 * column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + i64 * out_row + j64 * out_column, (given + radius * sine).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _deviation_tile(
    weight, A, B, c, out, scale, rank, scaling, d_out, d_in, row, column, A_row, B_row, B_column,
    GATED: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Norms of rows of ``W0 + s B diag(c) A``, tile by tile, scaled."""
    i = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    i64 = i[:, None].to(tl.int64)
    total = tl.zeros((BLOCK_I,), dtype=tl.float32)
    for start in range(0, d_in, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        inside = (i[:, None] < d_out) & (j[None, :] < d_in)
        tile = tl.load(weight + i64 * row + j[None, :].to(tl.int64) * column, mask=inside, other=0.0).to(tl.float32)
        for component in range(0, rank, BLOCK_R):
            r = component + tl.arange(0, BLOCK_R)
            up = tl.load(
                B + i64 * B_row + r[None, :] * B_column, mask=(i[:, None] < d_out) & (r[None, :] < rank), other=0.0
            )
            up = up * scaling
            if GATED:
                up = up * tl.load(c + r, mask=r < rank, other=0.0)[None, :]
            down = tl.load(
                A + r[:, None] * A_row + j[None, :], mask=(r[:, None] < rank) & (j[None, :] < d_in), other=0.0
            )
            tile = tl.dot(up, down, tile, input_precision="ieee")
        total += tl.sum(tile * tile, axis=1)
    factor = tl.load(scale).to(tl.float32)
    tl.store(out + i, tl.sqrt(total / d_in) * factor, mask=i < d_out)


@triton.jit(do_not_specialize=["number"])
def _perturb(
    weight, out, deviations, clock, number, d_out, d_in, half, row, column, out_row, out_column,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    _perturb_tile(
        weight, out, deviations, clock, number, d_out, d_in, half, row, column, out_row, out_column, BLOCK_I, BLOCK_J
    )


@triton.jit(do_not_specialize=["rank"])
def _deviate(
    weight, A, B, c, out, scale, rank, scaling, d_out, d_in, row, column, A_row, B_row, B_column,
    GATED: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    _deviation_tile(
        weight, A, B, c, out, scale, rank, scaling, d_out, d_in, row, column, A_row, B_row, B_column,
        GATED, BLOCK_I, BLOCK_J, BLOCK_R,
    )  # fmt: skip


# Those of many projections read from a table, a row each, where its tensors are, its rank and its number.


@triton.jit
def _pointer(table, field: tl.constexpr, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    address = tl.load(table + tl.program_id(2) * 7 + field)
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    return address.to(tl.pointer_type(TYPE))


@triton.jit
def _perturb_many(
    table, deviations, clock, d_out, d_in, half, row, column, out_row, out_column,
    TYPE: tl.constexpr, OUT_TYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(2)
    _perturb_tile(
        _pointer(table, 0, TYPE, ALIGNED), _pointer(table, 1, OUT_TYPE, ALIGNED), deviations + place * d_out, clock,
        tl.load(table + place * 7 + 6), d_out, d_in, half, row, column, out_row, out_column, BLOCK_I, BLOCK_J,
    )  # fmt: skip


@triton.jit
def _deviate_many(
    table, out, scale, scaling, d_out, d_in, row, column, A_row, B_row, B_column,
    TYPE: tl.constexpr, ALIGNED: tl.constexpr, GATED: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(2)
    _deviation_tile(
        _pointer(table, 0, TYPE, ALIGNED), _pointer(table, 2, tl.float32, False), _pointer(table, 3, tl.float32, False),
        _pointer(table, 4, tl.float32, False), out + place * d_out, scale, tl.load(table + place * 7 + 5).to(tl.int32),
        scaling, d_out, d_in, row, column, A_row, B_row, B_column, GATED, BLOCK_I, BLOCK_J, BLOCK_R,
    )  # fmt: skip


def perturb(
    weight: torch.Tensor, deviations: torch.Tensor, clock: torch.Tensor, number: int, out: torch.Tensor
) -> torch.Tensor:
    """See `flatness.Noise.perturb`."""
    d_out, d_in = weight.shape
    _perturb[_tiles(d_out, d_in)](
        weight, out, deviations, clock, number, d_out, d_in, (d_in + 1) // 2, *weight.stride(), *out.stride(),
        BLOCK_I=_ROWS, BLOCK_J=_COLUMNS, num_warps=4,
    )  # fmt: skip
    return out


def deviations(layer: Layer, weight: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """See `flatness.Noise.deviations`."""
    A, B, c = layer.A.detach(), layer.B.detach(), layer.c
    d_out, d_in = weight.shape
    _deviate[(triton.cdiv(d_out, _NORM_ROWS),)](
        weight, A, B, A if c is None else c.detach(), out, scale, len(A), layer.scaling, d_out, d_in,
        *weight.stride(), A.stride(0), *B.stride(), GATED=c is not None, **_NORM_TILE,
    )  # fmt: skip
    return out


_NORM_TILE = {"BLOCK_I": _NORM_ROWS, "BLOCK_J": _NORM_COLUMNS, "BLOCK_R": _NORM_RANK, "num_warps": 4}


def _tiles(d_out: int, d_in: int) -> tuple[int, int]:
    return triton.cdiv(d_out, _ROWS), triton.cdiv((d_in + 1) // 2, _COLUMNS)


class ManyDraws:
    """Noise of many projections by few launches.

    Args:
        layers: adapted projections with noise, whose factors stay where they are.
        copies: for each, where its weight with noise belongs, ``(d_out, d_in)``; None where that is drawn when it is
            read.

    Attributes:
        deviations: of each, ``(d_out,)``.
    """

    def __init__(self, layers: Sequence[Layer], copies: Sequence[torch.Tensor | None]) -> None:
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for index, (layer, copy) in enumerate(zip(layers, copies, strict=True)):
            weight = weight_of(layer.base)
            to = None if copy is None else (copy.stride(), copy.dtype)
            factors = layer.A.stride(), layer.B.stride(), layer.scaling, layer.c is None
            alike[weight.shape, weight.stride(), weight.dtype, to, factors].append(index)
        self._batches = [
            _Batch([layers[index] for index in indices], [copies[index] for index in indices])
            for indices in alike.values()
        ]
        places = {
            index: (batch, row) for batch, indices in enumerate(alike.values()) for row, index in enumerate(indices)
        }
        self.deviations = [self._batches[batch].deviations[row] for _, (batch, row) in sorted(places.items())]

    def draw(self) -> None:
        """Deviations of all, then the noise of those that have a copy."""
        for batch in self._batches:
            batch.draw()


class _Batch:
    """Projections of one shape, stored alike."""

    def __init__(self, layers: Sequence[Layer], copies: Sequence[torch.Tensor | None]) -> None:
        self._layers, self._copies = list(layers), list(copies)
        weights = [weight_of(layer.base).detach() for layer in layers]
        self._weight, self._copy = weights[0], copies[0]
        noises = [layer.noise for layer in layers if layer.noise is not None]
        self._flatness = noises[0].flatness
        rows = [
            [
                weight.data_ptr(),
                0 if copy is None else copy.data_ptr(),
                layer.A.data_ptr(),
                layer.B.data_ptr(),
                0 if layer.c is None else layer.c.data_ptr(),
                len(layer.A),
                noise.number,
            ]
            for layer, noise, weight, copy in zip(layers, noises, weights, copies, strict=True)
        ]
        self._aligned = all(row[0] % 16 == row[1] % 16 == 0 for row in rows)
        self._table = torch.tensor(rows, device=self._weight.device)
        self.deviations = self._weight.new_empty(len(layers), len(self._weight), dtype=torch.float32)

    def draw(self) -> None:
        layer, weight, copy = self._layers[0], self._weight, self._copy
        d_out, d_in = weight.shape
        device, many = weight.device, len(self._layers)
        _deviate_many[(triton.cdiv(d_out, _NORM_ROWS), 1, many)](
            self._table, self.deviations, self._flatness.scale_on(device), layer.scaling, d_out, d_in, *weight.stride(),
            layer.A.stride(0), *layer.B.stride(),
            TYPE=_TYPES[weight.dtype], ALIGNED=self._aligned, GATED=layer.c is not None, **_NORM_TILE,
        )  # fmt: skip
        if copy is not None:
            grid = *_tiles(d_out, d_in), many
            _perturb_many[grid](
                self._table, self.deviations, self._flatness.clock(device), d_out, d_in, (d_in + 1) // 2,
                *weight.stride(), *copy.stride(), TYPE=_TYPES[weight.dtype], OUT_TYPE=_TYPES[copy.dtype],
                ALIGNED=self._aligned, BLOCK_I=_ROWS, BLOCK_J=_COLUMNS, num_warps=4,
            )  # fmt: skip
