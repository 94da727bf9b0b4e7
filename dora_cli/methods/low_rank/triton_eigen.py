"""`dora_cli.methods.low_rank.eigen.jacobi` in one kernel, a block of threads for each matrix, which stays in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dora_cli.methods.low_rank.eigen import Eigen, rows_for, sweeps_for


@triton.jit
def _tangent(value, other, shared, first):
    """Of the angle by which a row turns towards its partner; minus that for the partner."""
    none = shared == 0
    away = (other - value) / tl.where(none, 1.0, 2 * shared)
    sign = tl.where(away == 0, tl.where(first, 1.0, -1.0), tl.where(away > 0, 1.0, -1.0))
    return tl.where(none, 0.0, sign / (tl.abs(away) + tl.sqrt(away * away + 1)))


@triton.jit
def _jacobi(grams, values, vectors, rank, sweeps, ROWS: tl.constexpr):
    index = tl.arange(0, ROWS)
    row, column = index[:, None], index[None, :]
    inside = (row < rank) & (column < rank)
    matrix = tl.program_id(0).to(tl.int64) * rank * rank + row * rank + column
    G = tl.load(grams + matrix, mask=inside, other=0.0)
    V = tl.where(row == column, 1.0, 0.0).to(tl.float64)
    for _ in range(sweeps):
        for distance in range(1, ROWS):
            pair = column == (row ^ distance)
            # each of them twice, along rows and along columns: sums over one entry, and so the very same
            along = tl.sum(tl.where(row == column, G, 0.0), axis=1)[:, None]
            across = tl.sum(tl.where(row == column, G, 0.0), axis=0)[None, :]
            other_along = tl.sum(tl.where(pair, across, 0.0), axis=1)[:, None]
            other_across = tl.sum(tl.where(pair, along, 0.0), axis=0)[None, :]
            shared_along = tl.sum(tl.where(pair, G, 0.0), axis=1)[:, None]
            shared_across = tl.sum(tl.where(pair, G, 0.0), axis=0)[None, :]
            t = _tangent(along, other_along, shared_along, row < (row ^ distance))
            cosine = 1.0 / tl.sqrt(t * t + 1)
            sine = t * cosine
            u = _tangent(across, other_across, shared_across, column < (column ^ distance))
            cosine_across = 1.0 / tl.sqrt(u * u + 1)
            sine_across = u * cosine_across
            columns = tl.broadcast_to(column ^ distance, (ROWS, ROWS))
            rows = tl.broadcast_to(row ^ distance, (ROWS, ROWS))
            G = cosine_across * G - sine_across * tl.gather(G, columns, 1)
            G = cosine * G - sine * tl.gather(G, rows, 0)
            V = cosine_across * V - sine_across * tl.gather(V, columns, 1)
            # a pair must find the very same angle, which rounding would not give it
            G = tl.where(pair, 0.0, (G + tl.trans(G)) / 2)
    found = tl.sum(tl.where(row == column, G, 0.0), axis=0)
    tl.store(values + tl.program_id(0) * rank + index, found, mask=index < rank)
    tl.store(vectors + matrix, V, mask=inside)


def jacobi(grams: torch.Tensor) -> Eigen:
    """See `eigen.jacobi`; float64, and at most `eigen.MAX_TRITON` rows."""
    grams = grams.contiguous()
    count, rank, _ = grams.shape
    rows = rows_for(rank)
    values, vectors = grams.new_empty(count, rank), torch.empty_like(grams)
    if count:
        _jacobi[(count,)](
            grams, values, vectors, rank, sweeps_for(rows), ROWS=rows, num_warps=1 if rows <= 16 else rows // 8
        )
    return values, vectors
