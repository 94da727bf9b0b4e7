"""Starts and scales: what is drawn, from which distribution, and that a fresh update is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dora_cli.methods.base import Method
from dora_cli.methods.low_rank.allocation.starts import SCALINGS, STARTS
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


def test_scales_by_start_rank_final_rank_and_the_mean_of_the_two() -> None:
    found = {name: scaling(8.0, 16, 4) for name, scaling in SCALINGS.items()}
    assert found == {"start": 0.5, "root": 1.0, "final": 2.0, "none": 8.0}
    for start_rank, rank in ((16, 4), (6, 4), (3, 2)):
        start, root, final = (SCALINGS[name](8.0, start_rank, rank) for name in ("start", "root", "final"))
        assert root == pytest.approx(math.sqrt(start * final), rel=1e-15)
        assert final == lora_s_scale(8.0, rank)
        assert start == new_dora(rank=rank, start_rank=start_rank, alpha=8.0).scaling
    for name in ("start", "root", "final"):
        assert SCALINGS[name](8.0, 5, 5) == lora_s_scale(8.0, 5), "where nothing is pruned they are all LoRA's"


def lora_s_scale(alpha: float, rank: int) -> float:
    model = nn.Sequential(nn.Linear(9, 9))
    new_lora(rank=rank, alpha=alpha).attach(model, sites({"0": model[0]}))
    layer = model[0]
    assert isinstance(layer, AdaptedProjection)
    return layer.scaling
