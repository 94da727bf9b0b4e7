"""Outer factors against a whole SVD, and what tells them when they are computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dora_cli.methods.nora.outer import Outer, outer_factors, scales_of, sketch_of, turned

RANK = 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(random(rows, columns, seed=seed))[0]


def with_values(values: list[float], seed: int = 0) -> torch.Tensor:
    """A weight, 20 to 24, of these singular values."""
    return (
        orthonormal(24, len(values), seed)
        @ torch.diag(torch.tensor(values).double())
        @ orthonormal(20, len(values), seed + 1).T
    )


@pytest.mark.parametrize("sharing", ["output", "both"])
@pytest.mark.parametrize("aware", [False, True], ids=["plain", "aware"])
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_they_are_those_of_a_whole_svd(shape: tuple[int, int], aware: bool, sharing: Any) -> None:
    weights = random(3, *shape)
    scales = random(3, shape[1], seed=1).abs() + 0.1 if aware else None
    outer = outer_factors(weights, RANK, scales, sharing)
    assert (outer.A.shape, outer.B.shape) == ((3, RANK, shape[1]), (3, shape[0], RANK))
    for index, weight in enumerate(weights):
        S = torch.ones(shape[1]).double() if scales is None else scales[index]
        U, sigma, Vh = torch.linalg.svd(weight * S, full_matrices=False)
        truncated = (U[:, :RANK] * sigma[:RANK]) @ Vh[:RANK] / S
        one = outer[index]
        torch.testing.assert_close(one.B @ one.A, truncated, rtol=0, atol=1e-11)
        of_B = sigma[:RANK] if sharing == "output" else sigma[:RANK].sqrt()
        torch.testing.assert_close(one.B.T @ one.B, torch.diag(of_B**2), rtol=1e-11, atol=1e-11)
        rows = one.A * S
        torch.testing.assert_close(rows @ rows.T, torch.diag((sigma[:RANK] / of_B) ** 2), rtol=1e-11, atol=1e-11)


def test_the_largest_entry_of_a_right_vector_is_positive() -> None:
    right = outer_factors(random(2, 30, 24), RANK, None, "output").A
    assert bool((right.gather(-1, right.abs().argmax(-1, keepdim=True)) > 0).all())


def test_of_all_factors_of_the_rank_the_scaled_ones_change_outputs_least() -> None:
    """With ``S^2`` the inputs' second moments, ``||(W - B A) S||`` is the size of the error of what the map gives."""
    weight, S = random(24, 40), random(40, seed=1).abs() + 0.1

    def error(outer: Outer) -> float:
        return float(((weight - outer.B[0] @ outer.A[0]) * S).norm())

    found = error(outer_factors(weight[None], RANK, S[None], "output"))
    left = torch.linalg.svdvals(weight * S)[RANK:]
    assert found == pytest.approx(float(left.norm()), rel=1e-10), "Eckart and Young: the rest of the singular values"
    assert found < 0.97 * error(outer_factors(weight[None], RANK, None, "output"))


def test_small_singular_values_are_not_squared_away() -> None:
    """1e-9 of the largest: of its square nothing is left in float64."""
    weight = with_values([1.0, 0.5, 1e-9, 1e-12])
    outer = outer_factors(torch.stack([weight, random(24, 20)]), 3, None, "output")[0]
    torch.testing.assert_close(outer.B.norm(dim=0), torch.tensor([1.0, 0.5, 1e-9]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(outer.A @ outer.A.T, torch.eye(3).double(), rtol=0, atol=1e-12)


def test_a_weight_of_a_lower_rank_has_components_of_zero() -> None:
    for weight, rank in ((with_values([2.0, 1.0]), 2), (torch.zeros(24, 20).double(), 0)):
        outer = outer_factors(weight[None], RANK, None, "output")[0]
        torch.testing.assert_close(outer.B @ outer.A, weight, rtol=0, atol=1e-12)
        assert float(outer.B[:, rank:].abs().max()) < 1e-12
        torch.testing.assert_close(outer.A @ outer.A.T, torch.eye(RANK).double(), rtol=0, atol=1e-12)


# -- scales ------------------------------------------------------------------------------------------------------------


def test_scales_are_root_mean_squares_without_a_unit() -> None:
    squares = torch.tensor([1.0, 4.0, 9.0, 2.0])
    moments = torch.diag(squares) + 0.1
    roots = (squares + 0.1).double().sqrt()
    torch.testing.assert_close(scales_of(moments, 1.0), roots / roots.square().mean().sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(scales_of(moments * 100, 1.0), scales_of(moments, 1.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        scales_of(moments, 0.5), roots.sqrt() / roots.mean().sqrt(), rtol=1e-6, atol=0
    )  # the mean square of a root is the mean
    assert scales_of(moments, 0.0).tolist() == [1.0] * 4


def test_a_dead_input_has_a_scale_that_can_be_undone() -> None:
    squares = torch.ones(20)
    squares[3] = 0.0
    scales = scales_of(torch.diag(squares), 1.0)
    assert 0 < float(scales[3]) < 2e-4
    weight = random(24, 20)
    outer = outer_factors(weight[None], RANK, scales[None], "output")[0]
    # its column is U^T W over the singular values, as of any other input: nothing is blown up
    U = outer.B / outer.B.norm(dim=0)
    torch.testing.assert_close(outer.A[:, 3], (U.T @ weight)[:, 3] / outer.B.norm(dim=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, float("nan")], ids=["zeros", "never reached"])
def test_where_no_input_is_known_the_svd_is_plain(value: float) -> None:
    assert scales_of(torch.full((4, 4), value), 1.0).tolist() == [1.0] * 4


# -- computed again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["output", "both"])
@pytest.mark.parametrize("aware", [False, True], ids=["plain", "aware"])
def test_signs_and_turns_are_undone(aware: bool, sharing: Any) -> None:
    """Three and two singular values are equal, whose vectors any rotation of their own may replace."""
    weight = with_values([5.0, 5.0, 5.0, 3.0, 2.0, 2.0, 1.0, 0.5])
    scales = random(20, seed=4).abs() + 0.5 if aware else None
    if scales is not None:
        weight = weight / scales  # so that it is the scaled weight that has these values
    outer = outer_factors(weight[None], 7, None if scales is None else scales[None], sharing)[0]
    turn = torch.diag(torch.tensor([1.0, 1, 1, -1, 1, 1, -1]).double())
    turn[:3, :3], turn[4:6, 4:6] = orthonormal(3, 3, 5), orthonormal(2, 2, 6)
    found, misfit = turned(Outer(turn @ outer.A, outer.B @ turn.T), sketch_of(outer.to(torch.float32)))
    assert misfit < 1e-6  # fp32
    torch.testing.assert_close(found.A, outer.A, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.B, outer.B, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.B @ found.A, outer.B @ outer.A, rtol=0, atol=1e-12)


def test_the_misfit_says_how_far_another_weight_is() -> None:
    weight, change = random(1, 24, 20), random(1, 24, 20, seed=9)
    sketch = sketch_of(outer_factors(weight, RANK, None, "output")[0])
    misfits = [turned(outer_factors(weight + t * change, RANK, None, "output")[0], sketch)[1] for t in (0, 1e-6, 1e-3)]
    assert misfits[0] < 1e-12
    assert 1e-7 < misfits[1] < 1e-4
    assert misfits[2] == pytest.approx(1e3 * misfits[1], rel=0.05), "as far as the change is large"


def test_more_equal_values_than_a_sketch_can_tell_are_a_misfit() -> None:
    """All of an orthonormal weight are one: another rotation of all its vectors is another start."""
    outer = outer_factors(orthonormal(24, 20, 3)[None], RANK, None, "output")[0]
    sketch = sketch_of(outer)
    assert turned(outer, sketch)[1] < 1e-12
    turn = orthonormal(RANK, RANK, 5)
    assert turned(Outer(turn @ outer.A, outer.B @ turn.T), sketch)[1] > 0.1
