"""The subspace of outputs that weight matrices share: its leading directions, from the matrices side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


def leading(
    matrices: Iterable[tuple[torch.Tensor, float]], rank: int, *, normalise: bool, center: bool
) -> tuple[torch.Tensor, int]:
    """The first left singular vectors of matrices side by side, ``[M_1 M_2 ...]``, and how many there are.

    Found from ``sum M M^T`` in float64, so that the matrices need not stand beside each other. The largest entry of
    every vector is positive.

    Args:
        matrices: ``(d_out, columns)`` each, in any type, with the norm that rounding has in it: no more than that is
            nothing.
        rank: how many vectors are wanted.
        normalise: divide every matrix by its Frobenius norm first, so that all count alike.
        center: subtract the mean of all columns.

    Returns:
        ``(d_out, rank)`` in float64, on the device of the first matrix, and the number of directions that rounding
            does not explain: columns beyond those mean nothing.
    """
    gram = total = torch.empty(0)
    rounding, columns = 0.0, 0
    for matrix, noise in matrices:
        matrix = matrix.double()
        if not columns:
            gram = matrix.new_zeros(len(matrix), len(matrix))
            total = matrix.new_zeros(len(matrix))
        columns += matrix.shape[1]
        norm = float(torch.linalg.matrix_norm(matrix))
        if norm <= noise:
            continue
        scale = 1 / norm if normalise else 1.0
        matrix = matrix.to(gram.device) * scale
        gram += matrix @ matrix.T
        total += matrix.sum(1)
        rounding += (noise * scale) ** 2
    assert columns, "no matrices"
    if center:
        gram -= torch.outer(total, total) / columns
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    # The largest singular value of noise, squared, is (sqrt(d) + sqrt(n))^2 of its variance (Marchenko, Pastur).
    edge = rounding * (len(gram) ** -0.5 + columns**-0.5) ** 2
    # squares in float64 hide what is smaller than its rounding
    floor = max(edge, len(gram) * torch.finfo(torch.float64).eps * max(float(values[0]), 0.0))
    found = vectors[:, :rank]
    largest = found.abs().argmax(0, keepdim=True)
    return found * found.gather(0, largest).sign(), int((values > floor).sum())


def rounding_of(*weights: torch.Tensor) -> float:
    """The norm that rounding to their type has in matrices, or in their difference, at the most.

    Every entry is off by a value that is uniform within half a unit of its last place: by ``eps / sqrt(12)`` of its
    size, in the root mean square, or less.
    """
    units = (torch.finfo(one.dtype).eps * float(torch.linalg.matrix_norm(one.double())) for one in weights)
    return math.hypot(*units) / math.sqrt(12)
