"""Closed forms against explicit rank-1 matrices, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_cli.methods.dora.importance import add_variance_gradients
from dora_cli.methods.low_rank.allocation.scores import EPS, ema
from tests.methods.small import component_scores

# rank, d_out, d_in; ranks above min(d) too
SHAPES = [(1, 2, 2), (1, 7, 3), (2, 5, 5), (3, 4, 9), (6, 16, 24), (12, 33, 8), (9, 3, 4)]


def factors(
    rank: int, d_out: int, d_in: int, seed: int = 0, *lead: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(rank, d_in), draw(d_out, rank), draw(rank)


def explicit_scores(A: torch.Tensor, B: torch.Tensor, c: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Equation 7 with every rank-1 matrix written out."""
    matrices = [c[i] * torch.outer(B[:, i], A[i]) for i in range(len(c))]
    whole = torch.stack(matrices).sum(0)
    return torch.stack([torch.linalg.matrix_norm(matrix) for matrix in matrices]) / (
        torch.linalg.matrix_norm(whole) + eps
    )


def explicit_dem(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Equation 10's sum, one component at a time, from the definition of the unbiased variance."""

    def variance(vector: torch.Tensor) -> torch.Tensor:
        return ((vector - vector.sum() / len(vector)) ** 2).sum() / (len(vector) - 1)

    return torch.stack([variance(A[i]) + variance(B[:, i]) for i in range(len(A))]).sum()


def variance_sum(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Equation 10's sum over all leading dimensions."""
    return add_variance_gradients((torch.zeros_like(A), torch.zeros_like(B.mT)), (A, B.mT), 1.0).sum()


def variance_gradients(A: torch.Tensor, B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grad_A, grad_B = torch.zeros_like(A), torch.zeros_like(B)
    add_variance_gradients((grad_A, grad_B.mT), (A, B.mT), 1.0)
    return grad_A, grad_B


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_the_explicit_matrices(shape: tuple[int, int, int], seed: int) -> None:
    A, B, c = factors(*shape, seed)
    torch.testing.assert_close(component_scores(A, B, c), explicit_scores(A, B, c), rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rank=st.integers(1, 8),
    d_out=st.integers(2, 12),
    d_in=st.integers(2, 12),
    seed=st.integers(0, 10**6),
    zeroed=st.sets(st.integers(0, 7)),
    magnitude=st.integers(-6, 6),
)
def test_scores_equal_the_explicit_matrices_for_any_size(
    rank: int, d_out: int, d_in: int, seed: int, zeroed: set[int], magnitude: int
) -> None:
    A, B, c = factors(rank, d_out, d_in, seed)
    c = c * 10.0**magnitude
    c[[i for i in zeroed if i < rank]] = 0
    scores = component_scores(A, B, c)
    # 1e-6 and not 1e-12: random components cancel, which the closed form feels (the bound is in the test of
    # cancellation below).
    torch.testing.assert_close(scores, explicit_scores(A, B, c), rtol=1e-6, atol=0)
    assert bool((scores[[i for i in zeroed if i < rank]] == 0).all())


def test_eps_is_that_of_the_published_code() -> None:
    # An update of norm 1e-8 in one component: exactly half.
    A, B, c = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([1e-8])
    torch.testing.assert_close(component_scores(A.double(), B.double(), c.double()).item(), 0.5)


def test_all_gates_zero_score_zero() -> None:
    A, B, c = factors(4, 6, 5)
    assert component_scores(A, B, torch.zeros_like(c)).tolist() == [0.0] * 4


def test_one_component_scores_one() -> None:
    A, B, c = factors(1, 6, 5)
    norm = float(c.abs() * A.norm() * B.norm())
    torch.testing.assert_close(
        component_scores(A, B, c), torch.tensor([norm / (norm + EPS)], dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_zero_factors_score_zero() -> None:
    A, B, c = factors(3, 6, 5)
    A[1] = 0
    B[:, 2] = 0
    assert component_scores(A, B, c).tolist()[1:] == [0.0, 0.0]
    assert component_scores(A * 0, B, c).tolist() == [0.0, 0.0, 0.0]


def test_equal_components_score_equally_and_to_one() -> None:
    # r times one matrix: each is 1/r of the sum.
    A, B, c = (factor.clone() for factor in factors(1, 6, 5))
    scores = component_scores(A.expand(4, -1), B.expand(-1, 4), c.expand(4))
    assert len(set(scores.tolist())) == 1
    torch.testing.assert_close(scores, torch.full((4,), 0.25, dtype=torch.float64), rtol=1e-7, atol=0)


def test_squares_of_orthogonal_components_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.linalg.qr(torch.randn(9, 4, generator=generator, dtype=torch.float64))[0].T
    B, c = (
        torch.randn(7, 4, generator=generator, dtype=torch.float64),
        torch.randn(4, generator=generator, dtype=torch.float64),
    )
    torch.testing.assert_close(component_scores(A, B, c, eps=0.0).square().sum().item(), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize("remainder", [0.1, 1e-2, 1e-4])
def test_cancelling_components_are_exact_up_to_their_conditioning(remainder: float) -> None:
    # Two large components that all but cancel and a small one: scores far above 1. The relative error of the squared
    # denominator is about eps * (sum of norms)^2 / ||dW||^2.
    A, B, c = factors(3, 6, 5)
    A[1], B[:, 1], c[1] = A[0], B[:, 0], -c[0]
    c[2] *= remainder
    scores = component_scores(A, B, c)
    norms = c.abs() * A.norm(dim=1) * B.norm(dim=0)
    bound = 50 * torch.finfo(torch.float64).eps * float(norms.sum() / norms[2]) ** 2
    assert bound < 1e-4
    torch.testing.assert_close(scores, explicit_scores(A, B, c), rtol=max(bound, 1e-12), atol=0)
    assert float(scores[0]) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_total_cancellation_is_finite_and_not_negative(dtype: torch.dtype, seed: int) -> None:
    # c^T K c is rounding noise of either sign here: the square root of a negative one would be NaN.
    A, B, c = (factor.to(dtype) for factor in factors(3, 6, 5, seed))
    scores = component_scores(torch.cat([A, A]), torch.cat([B, B], dim=1), torch.cat([c, -c]))
    assert bool(torch.isfinite(scores).all())
    assert bool((scores > 1).all())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    k=st.lists(st.floats(0.1, 10).flatmap(lambda v: st.sampled_from([v, -v])), min_size=4, max_size=4),
    m=st.lists(st.floats(0.1, 10).flatmap(lambda v: st.sampled_from([v, -v])), min_size=4, max_size=4),
)
def test_rescaling_a_component_changes_no_score(seed: int, k: list[float], m: list[float]) -> None:
    A, B, c = factors(4, 9, 7, seed)
    by_a, by_b = torch.tensor(k, dtype=torch.float64), torch.tensor(m, dtype=torch.float64)
    rescaled = component_scores(A * by_a[:, None], B * by_b, c / (by_a * by_b))
    torch.testing.assert_close(rescaled, component_scores(A, B, c), rtol=1e-9, atol=0)


def test_a_common_factor_of_all_gates_changes_no_score_but_for_eps() -> None:
    A, B, c = factors(4, 9, 7)
    torch.testing.assert_close(
        component_scores(A, B, 3 * c, eps=0.0), component_scores(A, B, c, eps=0.0), rtol=1e-12, atol=0
    )
    # With it, a whole update of norm eps scores half of what it would.
    tiny = c * (EPS / torch.linalg.matrix_norm(B @ torch.diag(c) @ A))
    torch.testing.assert_close(component_scores(A, B, tiny), component_scores(A, B, c, eps=0.0) / 2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("lead", [(4,), (2, 3), (1,)])
@pytest.mark.parametrize("shape", SHAPES)
def test_batched_equals_one_by_one(lead: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    A, B, c = factors(*shape, 5, *lead)
    flat = [tensor.reshape(-1, *tensor.shape[len(lead) :]) for tensor in (A, B, c)]
    single = torch.stack([component_scores(*each) for each in zip(*flat, strict=True)]).reshape(*lead, shape[0])
    torch.testing.assert_close(component_scores(A, B, c), single, rtol=1e-12, atol=0)
    sums = torch.stack([variance_sum(a, b) for a, b in zip(flat[0], flat[1], strict=True)]).sum()
    torch.testing.assert_close(variance_sum(A, B), sums, rtol=1e-12, atol=0)
    for whole, parts in zip(
        variance_gradients(A, B), zip(*map(variance_gradients, flat[0], flat[1]), strict=True), strict=True
    ):
        torch.testing.assert_close(whole, torch.stack(parts).reshape(whole.shape), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_factors_are_scored_in_fp32(dtype: torch.dtype) -> None:
    A, B, c = (factor.to(dtype) for factor in factors(6, 64, 48))
    scores = component_scores(A, B, c)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), explicit_scores(A.double(), B.double(), c.double()), rtol=1e-5, atol=0)


def test_fp32_stays_close_to_fp64_at_the_published_size() -> None:
    A, B, c = factors(12, 768, 768)
    scores = component_scores(A.float(), B.float(), c.float())
    torch.testing.assert_close(scores.double(), component_scores(A, B, c), rtol=1e-5, atol=0)


def test_scores_make_no_large_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    # The claim is r x r: the largest result of any operation may not exceed the inputs. An r x d_out x d_in tensor
    # would be 64 times that.
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    A, B, c = factors(4, 64, 64)
    with Largest() as largest:
        component_scores(A, B, c)
    assert 0 < largest.numel <= A.numel()


def test_ema_by_hand() -> None:
    average = torch.zeros(2, dtype=torch.float64)
    for value in ([1.0, 0.5], [2.0, 0.0], [0.0, 4.0]):
        average = ema(average, torch.tensor(value, dtype=torch.float64), 0.75)
    # 0.25 * (0.5625 * 1 + 0.75 * 2 + 0) and 0.25 * (0.5625 * 0.5 + 0 + 4): exact in binary.
    assert average.tolist() == [0.515625, 1.0703125]


def test_ema_lacks_bias_correction_which_no_ranking_feels() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20, 9, generator=generator, dtype=torch.float64)
    average = torch.zeros(9, dtype=torch.float64)
    for t, value in enumerate(values, 1):
        average = ema(average, value, 0.9)
        weights = torch.tensor([0.1 * 0.9 ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        torch.testing.assert_close(average, weights @ values[:t], rtol=1e-12, atol=0)
        torch.testing.assert_close(weights.sum().item(), 1 - 0.9**t)


@pytest.mark.parametrize("shape", SHAPES)
def test_dem_value_and_gradient_equal_autograd(shape: tuple[int, int, int]) -> None:
    A, B, _ = factors(*shape, 7)
    A.requires_grad_()
    B.requires_grad_()
    value = explicit_dem(A, B)
    expected_A, expected_B = torch.autograd.grad(value, (A, B))
    torch.testing.assert_close(variance_sum(A.detach(), B.detach()), value, rtol=1e-12, atol=0)
    grad_A, grad_B = variance_gradients(A.detach(), B.detach())
    torch.testing.assert_close(grad_A, expected_A, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(grad_B, expected_B, rtol=1e-11, atol=1e-14)


def test_dem_of_constant_factors_is_zero() -> None:
    A, B = torch.full((3, 5), 2.0), torch.full((4, 3), -1.5)
    assert float(variance_sum(A, B)) == pytest.approx(0, abs=1e-12)
    assert all(float(gradient.abs().max()) < 1e-6 for gradient in variance_gradients(A, B))


def test_dem_is_not_invariant_under_rescaling() -> None:
    A, B, _ = factors(4, 9, 7)
    expected = 4 * explicit_dem(A, B * 0) + explicit_dem(A * 0, B) / 4
    torch.testing.assert_close(variance_sum(2 * A, B / 2), expected, rtol=1e-12, atol=0)
