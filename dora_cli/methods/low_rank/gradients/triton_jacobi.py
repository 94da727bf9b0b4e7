"""`dora_cli.methods.low_rank.gradients.jacobi` in one kernel, a block of threads for each matrix, kept in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.gradients.jacobi import Eigen, rows_for, sweeps_for

_LEAST = 16  # rows of a tile


@triton.jit(do_not_specialize=["rank", "paired", "sweeps"])  # a matrix is loaded once: how wide does not matter
def _jacobi(grams, values, vectors, rank, paired, sweeps, ROWS: tl.constexpr):
    index = tl.arange(0, ROWS)
    row, column = index[:, None], index[None, :]
    inside = (row < rank) & (column < rank)
    diagonal = row == column
    matrix = tl.program_id(0).to(tl.int64) * rank * rank + row * rank + column
    G = tl.load(grams + matrix, mask=inside, other=0.0)
    V = tl.where(diagonal, 1.0, 0.0).to(tl.float64)
    for _ in range(sweeps):
        for distance in range(1, paired):  # a number that is not known to the compiler, which would unroll it all
            pair = column == (row ^ distance)
            across = tl.sum(tl.where(diagonal, G, 0.0), axis=0)[None, :]
            value = tl.sum(tl.where(diagonal, G, 0.0), axis=1)[:, None]
            other = tl.sum(tl.where(pair, across, 0.0), axis=1)[:, None]
            shared = tl.sum(tl.where(pair, G, 0.0), axis=1)[:, None]
            none = shared == 0
            away = (other - value) / tl.where(none, 1.0, 2 * shared)
            # of two equal values, one turns this way and the other that way
            first = (away > 0) | ((away == 0) & (row < (row ^ distance)))
            size = tl.abs(away) + tl.sqrt(away * away + 1)
            tangent = tl.where(none, 0.0, tl.where(first, 1.0, -1.0) / size)
            cosine = 1.0 / tl.sqrt(tangent * tangent + 1)
            sine = tangent * cosine
            cosine_across = tl.sum(tl.where(diagonal, cosine, 0.0), axis=0)[None, :]
            sine_across = tl.sum(tl.where(diagonal, sine, 0.0), axis=0)[None, :]
            columns = tl.broadcast_to(column ^ distance, (ROWS, ROWS))
            rows = tl.broadcast_to(row ^ distance, (ROWS, ROWS))
            G = cosine_across * G - sine_across * tl.gather(G, columns, 1)
            G = cosine * G - sine * tl.gather(G, rows, 0)
            V = cosine_across * V - sine_across * tl.gather(V, columns, 1)
            # a pair must find the very same angle, which rounding would not give it
            G = tl.where(pair, 0.0, (G + tl.trans(G)) / 2)
    found = tl.sum(tl.where(diagonal, G, 0.0), axis=0)
    tl.store(values + tl.program_id(0) * rank + index, found, mask=index < rank)
    tl.store(vectors + matrix, V, mask=inside)


def jacobi(grams: torch.Tensor) -> Eigen:
    """See `jacobi.jacobi`; float64, and at most `eigen.MAX_TRITON` rows."""
    grams = grams.contiguous()
    count, rank, _ = grams.shape
    paired = rows_for(rank)
    tile = max(_LEAST, paired)
    values, vectors = grams.new_empty(count, rank), torch.empty_like(grams)
    if count:
        _jacobi[(count,)](
            grams, values, vectors, rank, paired, sweeps_for(paired), ROWS=tile, num_warps=1 if tile == 16 else 8
        )
    return values, vectors
