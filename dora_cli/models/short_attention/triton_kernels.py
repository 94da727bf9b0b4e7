"""Attention over short texts in one kernel each way: a block has all keys of a head and a text, in the backward pass
all queries too, so that nothing is kept of weights, and every gradient is written once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.arithmetic.dropout import HASH_BITS, cut, scale
from dora_cli.methods.low_rank.arithmetic.triton_kernels import keep, shared_memory
from dora_cli.methods.triton_launch import Launch
from dora_cli.models.short_attention.operators import LONGEST, Given

WIDEST = 64
"""Entries of the widest head: of wider ones, and of texts of more than `LONGEST` tokens, not all that a block needs
would fit its registers.
"""


_NONE, _KEYS, _PAIRS = map(tl.constexpr, range(3))
"""Masks: none, one for all queries of a text, one for each of them."""

_LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def _tile(start, row, d, stride, rows, width):
    """`rows` rows of a head; zeros beyond them, and beyond its `width`."""
    inside = (row[:, None] < rows) & (d[None, :] < width)
    return tl.load(start + row[:, None] * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def _shares(Q, K, mask, i, j, length, row_mask, scale, MASK: tl.constexpr):
    """What queries `i` give to keys `j`, fp32, zeros where a query sees none, and one by the sum of a query.

    Queries beyond the last are zeros like their gradients, and what comes of them is not stored.
    """
    seen = j < length
    if MASK == _KEYS:
        seen = seen & (tl.load(mask + j, mask=seen, other=0) != 0)
    scores = tl.dot(Q, tl.trans(K), input_precision="ieee") * (scale * _LOG2_E)
    scores += tl.where(seen, 0.0, float("-inf"))[None, :]
    if MASK == _PAIRS:
        inside = (i[:, None] < length) & (j[None, :] < length)
        there = tl.load(mask + i[:, None] * row_mask + j[None, :], mask=inside, other=1) != 0
        scores = tl.where(there, scores, float("-inf"))
    top = tl.max(scores, axis=1)
    shares = tl.exp2(scores - tl.where(top == float("-inf"), 0.0, top)[:, None])
    total = tl.sum(shares, axis=1)
    return shares, 1 / tl.where(total > 0, total, 1.0)


# Integers that change within a run are the number of a text's tokens and which use of a seed it is; for what Triton
# compiles again see `low_rank.triton_kernels`.


@triton.jit(do_not_specialize=["seeds", "call", "length", "text_mask", "row_mask"])
def _forward(
    q, k, v, mask, out, seeds, call, heads, length, width, scale, kept,
    text_q, head_q, row_q, text_k, head_k, row_k, text_v, head_v, row_v, text_mask, row_mask,
    MASK: tl.constexpr, DROP: tl.constexpr, THRESHOLD: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A block has `BLOCK_N` queries of a head and all keys."""
    text, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    i, j, d = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_D)
    Q = _tile(q + text * text_q + head * head_q, i, d, row_q, length, width)
    K = _tile(k + text * text_k + head * head_k, j, d, row_k, length, width)
    V = _tile(v + text * text_v + head * head_v, j, d, row_v, length, width)
    shares, part = _shares(Q, K, mask + text * text_mask, i, j, length, row_mask, scale, MASK)
    if DROP:
        row = tl.program_id(0) * length + i[:, None]
        shares = tl.where(keep(row, 0, j[None, :], tl.load(seeds), call, THRESHOLD), shares, 0.0)
    result = tl.dot(shares.to(V.dtype), V, input_precision="ieee") * (part * kept)[:, None]
    place = out + ((text * length + i[:, None]) * heads + head) * width + d[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=(i[:, None] < length) & (d[None, :] < width))


@triton.jit(do_not_specialize=["seeds", "call", "length", "text_mask", "row_mask"])
def _backward(
    q, k, v, mask, gradient, dq, dk, dv, seeds, call, heads, length, width, scale, kept,
    text_q, head_q, row_q, text_k, head_k, row_k, text_v, head_v, row_v, text_g, head_g, row_g, text_mask, row_mask,
    text_d, row_d,
    MASK: tl.constexpr, DROP: tl.constexpr, THRESHOLD: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A block has a head of a text; its weights are computed once more."""
    text, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    i, d = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_D)
    Q = _tile(q + text * text_q + head * head_q, i, d, row_q, length, width)
    K = _tile(k + text * text_k + head * head_k, i, d, row_k, length, width)
    V = _tile(v + text * text_v + head * head_v, i, d, row_v, length, width)
    G = _tile(gradient + text * text_g + head * head_g, i, d, row_g, length, width)
    shares, part = _shares(Q, K, mask + text * text_mask, i, i, length, row_mask, scale, MASK)
    # with weights ``w = shares * part``, what is kept `M` and ``D = M * (G V^T)``, values get ``(kept M w)^T G``, and
    # scores ``scale w (kept D - m)`` with ``m = sum(kept w D)``: both of ``scale kept w``, negative where it is dropped
    weights = shares * (part * (scale * kept))[:, None]
    if DROP:
        row = tl.program_id(0) * length + i[:, None]
        weights = tl.where(keep(row, 0, i[None, :], tl.load(seeds), call, THRESHOLD), weights, -weights)
    used = tl.maximum(weights, 0.0)
    D = used * tl.dot(G, tl.trans(V), input_precision="ieee")
    place = text * text_d + i[:, None] * row_d + head * width + d[None, :]
    inside = (i[:, None] < length) & (d[None, :] < width)
    of_V = tl.dot(tl.trans(used.to(G.dtype)), G, input_precision="ieee") / scale
    tl.store(dv + place, of_V.to(dv.dtype.element_ty), mask=inside)
    of_scores = (D - tl.abs(weights) * (tl.sum(D, axis=1) / (scale * kept))[:, None]).to(Q.dtype)
    of_Q = tl.dot(of_scores, K, input_precision="ieee")
    tl.store(dq + place, of_Q.to(dq.dtype.element_ty), mask=inside)
    of_K = tl.dot(tl.trans(of_scores), Q, input_precision="ieee")
    tl.store(dk + place, of_K.to(dk.dtype.element_ty), mask=inside)


def has_memory(device: torch.device, length: int, width: int) -> bool:
    """Whether a block of `device` has room for what the backward pass multiplies, of two bytes each: three parts of a
    head and its weights at a time.
    """
    rows, columns = _blocks(length, width)
    return width <= WIDEST and 2 * rows * (3 * columns + rows) <= shared_memory(device)


def _blocks(length: int, width: int) -> tuple[int, int]:
    """Tokens and columns of a block: few sizes, each of which is compiled."""
    return 64 if length <= 64 else LONGEST, max(16, triton.next_power_of_2(width))


class TritonAttention:
    """`operators.Kernels` on a GPU."""

    def __init__(self) -> None:
        self._launches: dict[tuple[Hashable, ...], Launch] = {}

    def forward(self, given: Given) -> torch.Tensor:
        texts, heads, length, width = given.query.shape
        out = given.query.new_empty(texts, length, heads, width)
        work, drawn = _Work.of(given), given.drawn
        rows = min(work.block, 64)
        grid = texts * heads, triton.cdiv(length, rows), 1
        launch = self._launch(_forward, grid, work, (*work.constants, rows, *work.blocks), warps=4)
        launch(*work.parts, work.mask, out, drawn.seed, drawn.call, *work.sizes, *work.strides)
        return out

    def backward(self, gradient: torch.Tensor, given: Given, into: Sequence[torch.Tensor]) -> None:
        texts, heads = given.query.shape[:2]
        text, row = into[0].stride()[:2]
        work, drawn = _Work.of(given, gradient.transpose(1, 2)), given.drawn
        warps = 4 if work.block <= 64 else 8
        grid, constants = (texts * heads, 1, 1), (*work.constants, *work.blocks)
        launch = self._launch(_backward, grid, work, constants, warps, into=into)
        *read, of_out = work.parts
        launch(*read, work.mask, of_out, *into, drawn.seed, drawn.call, *work.sizes, *work.strides, text, row)

    def _launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        work: _Work,
        constants: tuple[Any, ...],
        warps: int,
        *,
        into: Sequence[torch.Tensor] = (),
    ) -> Launch:
        places = tuple([part.data_ptr() % 16 for part in (*work.parts, work.mask, *into)])
        apart = tuple([part.stride() for part in into])
        key = kernel, grid, constants, work.parts[0].dtype, work.sizes, work.strides, apart, places
        if key not in self._launches:
            self._launches[key] = Launch(kernel, grid, constants, num_warps=warps)
        return self._launches[key]


class _Work(NamedTuple):
    """What both kernels are given.

    Attributes:
        parts: queries, keys, values, gradients, ``(texts, heads, tokens, width)``.
        mask: bytes; anything where there is none.
        sizes: heads, tokens, width, and what scores and kept weights are multiplied by.
        strides: of the dimensions of `parts` but the last, and of the mask's texts and queries.
        constants: kind of mask, whether weights are dropped, and the threshold.
        blocks: tokens and columns of a block.
    """

    parts: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    sizes: tuple[int | float, ...]
    strides: tuple[int, ...]
    constants: tuple[int | bool, ...]
    blocks: tuple[int, int]

    @classmethod
    def of(cls, given: Given, *gradients: torch.Tensor) -> _Work:
        query, key, value, mask, drawn, scaling = given
        texts, heads, length, width = query.shape
        given_parts = query, key, value, *gradients
        parts = tuple([part if part.stride(-1) == 1 else part.contiguous() for part in given_parts])
        strides = [stride for part in parts for stride in part.stride()[:3]]
        kind, seen, of_mask = _NONE.value, parts[0], (0, 0)
        if mask is not None:
            whole = mask.expand(texts, 1, length, length)
            whole = whole if whole.stride(-1) == 1 else whole.contiguous()
            seen, of_mask = whole.view(torch.uint8), (whole.stride(0), whole.stride(2))
            kind = _PAIRS.value if of_mask[1] and length > 1 else _KEYS.value
        threshold = cut(drawn.probability, HASH_BITS)
        return cls(
            parts,
            seen,
            (heads, length, width, scaling, scale(threshold, HASH_BITS)),
            (*strides, *of_mask),
            (kind, threshold > 0, threshold),
            _blocks(length, width),
        )

    @property
    def block(self) -> int:
        return self.blocks[0]
