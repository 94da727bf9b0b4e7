"""Directions of `A` that are measured before the first step, for starts that are LoRA's in all else.

With ``B = 0`` the first step of gradient descent moves the weight by ``-s^2 g A^T A`` times the rate, `g` its gradient:
along the `r` steepest directions of all where the rows of `A` are the right singular vectors of `g` (LoRA-One's, Zhang
et al. 2025, arXiv 2502.01235, without the step that it takes at the start); and as far as any `r` orthonormal rows can
take the outputs where they are those of the inputs (EVA, Paischer et al. 2024, arXiv 2410.07170).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch

from dora_cli.errors import ModelError
from dora_cli.methods.base import Calibration, Measured
from dora_cli.methods.low_rank.protocols import Layer


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


class MeasuredStart:
    """A start whose directions are measured over training data.

    Args:
        directions: which.
        examples: of the training split, that are looked at.

    Attributes:
        wanted: what is to be measured.
    """

    def __init__(self, directions: Directions, examples: int) -> None:
        self._of = directions.of
        self.wanted = Calibration(directions.measured, examples)

    def take(self, measured: Measured, layers: Mapping[str, Layer]) -> None:
        """Turns every `A` of `layers` to where its projection's matrix points. Raises ModelError where one points
        nowhere.
        """
        for name, matrix in (measured.inputs or measured.gradients).items():
            if not bool(matrix.isfinite().all()):
                raise ModelError(
                    f"the {self.wanted.kind} of {name} are not finite (NaN or infinite) over the training "
                    "examples of method.calibration_examples, so nothing can start in their directions; set "
                    "method.start: lora"
                )
            layer = layers[name]
            point(layer.A, self._of(matrix, layer.rank))


def measured_start(start: str, examples: int) -> MeasuredStart | None:
    """None for a start that is drawn."""
    directions = DIRECTIONS.get(start)
    return None if directions is None else MeasuredStart(directions, examples)
