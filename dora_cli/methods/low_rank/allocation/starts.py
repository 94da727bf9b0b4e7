"""How factors and gates start, and what the update is scaled by.

All starts compute what the base does: the gates are 0, or `B` is. With them goes the size of a component
``s c_i b_i a_i^T``, and how fast each of its parts moves it: under Adam an entry moves by about the learning rate,
whatever its gradient (reference section 2.1).

Two starts are LoRA's but for the directions of `A`, which are measured (`DIRECTIONS`). With ``B = 0`` the first step
moves the weight by ``-s^2 g A^T A`` times the rate, `g` its gradient: along the `r` steepest directions of all where
the rows of `A` are the right singular vectors of `g` (LoRA-One's, Zhang et al. 2025, arXiv 2502.01235, without the step
that it takes at the start); and as far as any `r` orthonormal rows can take the outputs where they are those of the
inputs (EVA, Paischer et al. 2024, arXiv 2410.07170).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch

Start = Callable[[int, int, int, torch.dtype, torch.Generator], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""``(d_out, d_in, rank, dtype, generator) -> (A, B, c)``: ``(rank, d_in)``, ``(d_out, rank)`` and ``(rank,)``.

The generator is on the CPU, so that a seed gives the same factors whatever the device.
"""


def published(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both factors Kaiming-uniform (fan-in, ``a = 0``), the gates zero, as in the code of Mao et al. 2024.

    `A` is from ``U(+-sqrt(6 / d_in))``, `B` from ``U(+-sqrt(6 / rank))`` (reference section 1.1): the norms of a
    component are sqrt(2) and ``sqrt(2 d_out / rank)``, so that a step of a gate weighs more in wide layers and at low
    ranks.
    """
    A, B = torch.empty(rank, d_in, dtype=dtype), torch.empty(d_out, rank, dtype=dtype)
    for factor, bound in ((A, math.sqrt(6 / d_in)), (B, math.sqrt(6 / rank))):
        factor.uniform_(-bound, bound, generator=generator)
    return A, B, torch.zeros(rank, dtype=dtype)


def unit(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Components of norm 1 on average, the gates zero.

    ``a_i ~ N(0, 1 / d_in)`` and ``b_i ~ N(0, 1 / d_out)``: in every width and at every rank ``|c_i|`` is about the
    Frobenius norm of a component, and a step of a gate moves every layer alike.
    """
    A, B = torch.empty(rank, d_in, dtype=dtype), torch.empty(d_out, rank, dtype=dtype)
    for factor, width in ((A, d_in), (B, d_out)):
        factor.normal_(0, width**-0.5, generator=generator)
    return A, B, torch.zeros(rank, dtype=dtype)


def lora(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LoRA's: `A` as `lora_A` draws it, ``B = 0``, the gates 1."""
    A = lora_A(rank, d_in, dtype, generator)
    return A, A.new_zeros(d_out, rank), A.new_ones(rank)


def lora_A(rank: int, d_in: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """`A` of LoRA, ``(rank, d_in)`` from ``U(+-1 / sqrt(d_in))``, as in loralib and PEFT (Kaiming with a = sqrt(5))."""
    bound = d_in**-0.5
    return torch.empty(rank, d_in, dtype=dtype).uniform_(-bound, bound, generator=generator)


STARTS: Mapping[str, Start] = {"published": published, "unit": unit, "lora": lora, "gradient": lora, "inputs": lora}
"""By the names of recipes; where there are `DIRECTIONS` too, these come into `A` later."""


class Directions(NamedTuple):
    """Where the rows of `A` point to.

    Attributes:
        measured: what they are made of, as a `Calibration` calls it.
        of: from that of one projection and a number, so many orthonormal rows, ``(k, d_in)`` in float64; fewer where it
            has no more directions. They are in the order of what each is worth, their largest entries positive.
    """

    measured: Literal["inputs", "gradients"]
    of: Callable[[torch.Tensor, int], torch.Tensor]


def steepest(gradient: torch.Tensor, count: int) -> torch.Tensor:
    """The first right singular vectors of a weight's gradient, ``(d_out, d_in)``."""
    g = gradient.double()
    if len(g) >= g.shape[1]:
        return _leading(g.mT @ g, count, _rounding(gradient) ** 2)
    rows = _leading(g @ g.mT, count, _rounding(gradient) ** 2) @ g  # the smaller problem
    return _signed(torch.nn.functional.normalize(rows))


def widest(moments: torch.Tensor, count: int) -> torch.Tensor:
    """The first eigenvectors of the inputs' second moments ``E[x x^T]``: the right singular vectors of all inputs."""
    return _leading(moments.double(), count, _rounding(moments))


def _rounding(matrix: torch.Tensor) -> float:
    """Singular values below this share of the largest say nothing: it was measured in fp32."""
    return max(matrix.shape) * torch.finfo(torch.float32).eps


def _leading(symmetric: torch.Tensor, count: int, negligible: float) -> torch.Tensor:
    """Eigenvectors as rows, those of values that are not `negligible` beside the largest. Waits for the device."""
    values, vectors = _eigen(symmetric, count)
    there = int((values > negligible * values[-1]).sum())
    return _signed(vectors.mT.flip(0)[: min(count, there)])


EXACT = 1024
"""Up to this width all eigenvectors are computed; of wider matrices that takes too long."""

ITERATIONS = 16


def _eigen(symmetric: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, ascending, and eigenvectors as columns, `count` of the largest at least.

    Of wide matrices by orthogonal iteration (Golub and Van Loan, section 8.2) with more than twice as many columns,
    from the same ones for every matrix of that size: an error falls by ``value[2 count + 8] / value[count]`` each time.
    """
    block = 2 * count + 8
    if len(symmetric) <= max(EXACT, block):
        values, vectors = torch.linalg.eigh(symmetric)
        return values, vectors
    drawn = torch.randn(len(symmetric), block, dtype=symmetric.dtype, generator=torch.Generator().manual_seed(0))
    Q = drawn.to(symmetric.device)
    for _ in range(ITERATIONS):
        Q = torch.linalg.qr(symmetric @ Q).Q
    values, vectors = torch.linalg.eigh(Q.mT @ symmetric @ Q)
    return values, Q @ vectors


def _signed(rows: torch.Tensor) -> torch.Tensor:
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()


DIRECTIONS: Mapping[str, Directions] = {
    "gradient": Directions("gradients", steepest),
    "inputs": Directions("inputs", widest),
}
"""By the names of recipes, of the starts that are measured."""


@torch.no_grad()
def point(A: torch.Tensor, directions: torch.Tensor) -> None:
    """Gives the first rows of `A` these `directions`, and the length that LoRA's rows have in the root of their mean
    square, ``1 / sqrt(3)``; rows for which there is none stay as LoRA has drawn them.
    """
    A[: len(directions)] = directions * 3**-0.5


SCALINGS: Mapping[str, Callable[[float, int, int], float]] = {
    "start": lambda alpha, start_rank, rank: alpha / start_rank,
    "root": lambda alpha, start_rank, rank: alpha / math.sqrt(start_rank * rank),
    "final": lambda alpha, start_rank, rank: alpha / rank,
}
"""``(alpha, r0, rT) -> s``, the scale of the update, which stays: by the rank at the start, by the mean final rank (as
in LoRA of that rank), or by the geometric mean of the two.
"""
