"""Measured directions: singular vectors and eigenvectors by PyTorch's own decompositions of the whole."""

from __future__ import annotations

import math

import pytest
import torch

from dora_cli.methods.low_rank.allocation.directions import DIRECTIONS, EXACT, point, steepest, widest
from dora_cli.methods.low_rank.allocation.starts import lora_A


def normal(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (12, 12)])
def test_the_steepest_directions_are_right_singular_vectors(shape: tuple[int, int]) -> None:
    g = normal(*shape)
    found, expected = steepest(g, 5), torch.linalg.svd(g).Vh[:5]
    torch.testing.assert_close((found @ expected.T).abs(), torch.eye(5, dtype=g.dtype), rtol=0, atol=1e-9)


def test_the_widest_directions_are_those_of_all_inputs_together() -> None:
    x = normal(50, 12) * torch.logspace(0, -1, 12).double() + 0.3  # not centred: EVA takes a mean away, A x cannot
    found, expected = widest(x.T @ x / 50, 5), torch.linalg.svd(x).Vh[:5]
    torch.testing.assert_close((found @ expected.T).abs(), torch.eye(5, dtype=x.dtype), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_are_as_many_directions_as_the_matrix_has(dtype: torch.dtype) -> None:
    """None of rounding, in the type that was measured in; of a matrix of zeros none at all."""
    for d_out, d_in in ((30, 12), (12, 30)):
        g = normal(d_out, 3, dtype=dtype) @ normal(3, d_in, seed=6, dtype=dtype)
        for name, matrix in (("gradient", g), ("inputs", g.T @ g)):
            found = DIRECTIONS[name].of(matrix, 8)
            assert found.shape == (3, d_in)
            torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-5)
            assert DIRECTIONS[name].of(matrix, 2).shape == (2, d_in)
            assert DIRECTIONS[name].of(torch.zeros_like(matrix), 8).shape == (0, d_in)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_of_wide_matrices_are_those_of_all(name: str) -> None:
    """Forty known ones, whose values fall as slowly as ``1 / sqrt(i)``, above noise in all the others."""
    width, count, shares = EXACT + 100, 5, torch.arange(1, 41).double() ** -0.5
    U, V = (torch.linalg.qr(normal(width, 40, seed=seed)).Q for seed in (1, 2))
    if name == "gradient":
        matrix = (U * shares) @ V.T + 1e-9 * normal(width, width, seed=3)
    else:
        matrix = (V * shares**2) @ V.T + 1e-12 * torch.eye(width, dtype=V.dtype)
    found = DIRECTIONS[name].of(matrix, count)
    cosines = (found @ V[:, :count]).abs()
    torch.testing.assert_close(cosines, torch.eye(count, dtype=V.dtype), rtol=0, atol=1e-5)
    assert torch.equal(found, DIRECTIONS[name].of(matrix, count))
    few = DIRECTIONS[name].of((V[:, :2] @ V[:, :2].T), count)
    assert few.shape == (2, width)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_direction_has_one_sign(name: str) -> None:
    g = normal(30, 12)
    for matrix in (g, -g) if name == "gradient" else (g.T @ g,):
        found = DIRECTIONS[name].of(matrix, 6)
        assert (found.max(1).values == found.abs().max(1).values).all()
    assert torch.equal(steepest(g, 6), steepest(-g, 6))


def test_rows_take_directions_and_the_length_that_lora_s_have() -> None:
    """Rows for which there is no direction stay."""
    A = lora_A(6, 400, torch.float32, torch.Generator().manual_seed(1))
    before = A.clone()
    mean_square = float(lora_A(500, 400, torch.float64, torch.Generator().manual_seed(2)).square().sum(1).mean())
    directions = steepest(normal(4, 400), 6)
    point(A, directions)
    torch.testing.assert_close(A[:4].double(), directions * math.sqrt(1 / 3), rtol=0, atol=1e-7)
    assert torch.equal(A[4:], before[4:])
    assert float(A[0].square().sum()) == pytest.approx(mean_square, rel=0.01)
