"""Starts and scales: what is drawn, from which distribution, and that a fresh update is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dora_cli.methods.base import Method
from dora_cli.methods.low_rank.allocation.starts import (
    DIRECTIONS,
    EXACT,
    SCALINGS,
    STARTS,
    lora_A,
    point,
    steepest,
    widest,
)
from dora_cli.methods.low_rank.layer import AdaptedProjection
from tests.methods.small import new_cola, new_dora, new_lora, sites

every_start = pytest.mark.parametrize("name", STARTS)


def drawn(
    name: str, *, d_out: int = 60, d_in: int = 40, rank: int = 5, seed: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return STARTS[name](d_out, d_in, rank, dtype, torch.Generator().manual_seed(seed))


@every_start
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fresh_update_is_nothing(name: str, dtype: torch.dtype) -> None:
    A, B, c = drawn(name, dtype=dtype)
    assert (A.shape, B.shape, c.shape) == ((5, 40), (60, 5), (5,))
    assert {A.dtype, B.dtype, c.dtype} == {dtype}
    assert not (B @ torch.diag(c) @ A).any()
    # and yet it can learn: of each component one of the two sides is there to give the other a gradient
    assert A.any(1).all()
    assert (B.any(0) | c.bool()).all()


@every_start
def test_what_is_drawn_follows_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = drawn(name), drawn(name), drawn(name, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first, second) for first, second in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_the_published_start_is_kaiming_s_with_gates_of_zero() -> None:
    """Against `torch.nn.init`, which the authors' code calls, `A` first."""
    A, B, c = drawn("published")
    generator = torch.Generator().manual_seed(3)
    for factor in (A, B):
        expected = nn.init.kaiming_uniform_(torch.empty_like(factor), a=0, generator=generator)
        torch.testing.assert_close(factor, expected, rtol=0, atol=1e-14)
    assert not c.any()


@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(3000, 500, 40), (500, 3000, 40), (2000, 2000, 10)])
def test_unit_components_have_the_norm_one_in_every_width_and_at_every_rank(d_out: int, d_in: int, rank: int) -> None:
    """``||a||^2`` is a mean of `d` squares of a normal variable: 1 with a standard deviation of ``sqrt(2 / d)``."""
    A, B, c = drawn("unit", d_out=d_out, d_in=d_in, rank=rank)
    for rows, width in ((A, d_in), (B.T, d_out)):
        assert ((rows.square().sum(1) - 1).abs() < 5 * math.sqrt(2 / width)).all()
        assert abs(float(rows.mean())) < 5 / math.sqrt(width * rows.numel())
    # the two are drawn one after the other
    assert abs(float(nn.functional.cosine_similarity(A.flatten()[:20000], B.flatten()[:20000], dim=0))) < 0.05
    assert not c.any()


@pytest.mark.parametrize("build", [new_lora, lambda **settings: new_cola(links=1, **settings)])
def test_the_start_of_lora_has_its_very_bits(build: Callable[..., Method]) -> None:
    layers = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 7))
    method = build(rank=5, alpha=8.0, dropout=0.0)
    method.attach(layers, sites({"0": layers[0], "1": layers[1]}), seed=17)
    state = method.state_dict()
    generator = torch.Generator().manual_seed(17)
    for name, (d_out, d_in) in {"0": (60, 40), "1": (7, 60)}.items():
        A, B, c = STARTS["lora"](d_out, d_in, 5, torch.float32, generator)
        assert torch.equal(A, state[f"{name}.A"])
        assert torch.equal(B, state[f"{name}.B"])
        assert torch.equal(c, torch.ones(5)), "a gate of 1 leaves LoRA's component as it is"


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


def test_scales_by_start_rank_final_rank_and_the_mean_of_the_two() -> None:
    found = {name: scaling(8.0, 16, 4) for name, scaling in SCALINGS.items()}
    assert found == {"start": 0.5, "root": 1.0, "final": 2.0}
    for start_rank, rank in ((16, 4), (6, 4), (3, 2)):
        start, root, final = (SCALINGS[name](8.0, start_rank, rank) for name in ("start", "root", "final"))
        assert root == pytest.approx(math.sqrt(start * final), rel=1e-15)
        assert final == lora_s_scale(8.0, rank)
        assert start == new_dora(rank=rank, start_rank=start_rank, alpha=8.0).scaling
    for scaling in SCALINGS.values():
        assert scaling(8.0, 5, 5) == lora_s_scale(8.0, 5), "where nothing is pruned they are all LoRA's"


def lora_s_scale(alpha: float, rank: int) -> float:
    model = nn.Sequential(nn.Linear(9, 9))
    new_lora(rank=rank, alpha=alpha).attach(model, sites({"0": model[0]}))
    layer = model[0]
    assert isinstance(layer, AdaptedProjection)
    return layer.scaling
