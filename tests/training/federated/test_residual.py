"""LoRA-FAIR's correction against its objective, computed with whole matrices and minimised by force."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from dora_cli.training.federated.aggregation import average, lora_fair
from dora_cli.training.federated.residual import correction, moved
from tests.training.federated.clients import Clients, drawn


def objective(clients: Clients, D: np.ndarray, residual: float) -> float:
    """``1 - cos(dW, (B + D) A) + lambda ||D||``, as published but for the sign (see the module)."""
    A, B = (mean.numpy() for mean in clients.means)
    dW, update = clients.products.numpy(), (B + D.reshape(B.shape)) @ A
    cosine = (dW * update).sum() / max(np.linalg.norm(dW) * np.linalg.norm(update), 1e-300)
    return float(1 - cosine + residual * np.linalg.norm(D))


def slope(clients: Clients, residual: float) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """`objective` and its gradient, where `D` is not zero."""
    A, B = (mean.numpy() for mean in clients.means)
    dW = clients.products.numpy()
    wanted, size = dW @ A.T, np.linalg.norm(dW)

    def of(entries: np.ndarray) -> tuple[float, np.ndarray]:
        D = entries.reshape(B.shape)
        update = (B + D) @ A
        length, penalty = max(np.linalg.norm(update), 1e-300), max(np.linalg.norm(D), 1e-300)
        cosine = (dW * update).sum() / (size * length)
        gradient = (cosine * (update @ A.T) / length - wanted / size) / length + residual * D / penalty
        return float(1 - cosine + residual * penalty), gradient.ravel()

    return of


def by_force(clients: Clients, residual: float, starts: int = 6) -> tuple[float, np.ndarray]:
    """The least value found by BFGS over all entries of `D`, from zero and random starts near and far."""
    shape, of = clients.means[1].shape, slope(clients, residual)
    random = np.random.default_rng(0)
    best = objective(clients, np.zeros(shape), residual), np.zeros(shape)
    for start in range(starts):
        first = random.normal(size=math.prod(shape)) * (0.01, 0.3, 1.0)[start % 3]
        found = minimize(of, first, jac=True, method="BFGS", options={"gtol": 1e-9})
        best = min(best, (float(found.fun), found.x.reshape(shape)), key=lambda pair: pair[0])
    return best


def corrected(clients: Clients, residual: float) -> torch.Tensor:
    return lora_fair(*clients, residual).B - average(*clients, residual).B


@pytest.mark.parametrize("residual", [0.003, 0.03, 0.3])
@pytest.mark.parametrize(
    "clients",
    [drawn(1, apart=0.3), drawn(5), drawn(9), drawn(2, (4, 3, 5, 3)), drawn(3, (2, 1, 3, 4)), drawn(4, (3, 3, 2, 4))],
    ids=["near", "far", "farther", "rank 3", "rank 1", "rank above width"],
)
def test_no_search_by_force_finds_less(clients: Clients, residual: float) -> None:
    least, where = by_force(clients, residual)
    D = corrected(clients, residual)
    # Not only as good: the same correction. By force it is found to the root of the precision that the value has.
    assert objective(clients, D.numpy(), residual) == pytest.approx(least, abs=1e-11)
    np.testing.assert_allclose(D.numpy(), where, atol=1e-4)


def test_the_gradient_that_force_follows_is_that_of_the_objective() -> None:
    clients, D = drawn(5), np.random.default_rng(1).normal(size=drawn(5).means[1].numel())
    value, gradient = slope(clients, 0.03)(D)
    assert value == pytest.approx(objective(clients, D, 0.03))
    steps = 1e-6 * np.eye(len(D))
    expected = [(objective(clients, D + e, 0.03) - objective(clients, D - e, 0.03)) / 2e-6 for e in steps]
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_some_of_these_are_corrected_and_some_are_not() -> None:
    """So that the comparison above is one of both kinds of minimum."""
    assert corrected(drawn(1, apart=0.3), 0.003).norm() > 1e-2
    assert not corrected(drawn(1, apart=0.3), 0.3).any()


@pytest.mark.parametrize("seed", range(6))
def test_where_it_moves_the_gradient_is_zero(seed: int) -> None:
    clients, residual = drawn(seed, (5, 4, 12, 9), apart=0.5), 0.001
    (A, B), dW = clients.means, clients.products
    D = corrected(clients, residual).requires_grad_()
    assert D.norm() > 1e-3
    value = 1 - torch.cosine_similarity(dW.flatten(), ((B + D) @ A).flatten(), 0) + residual * D.norm()
    (gradient,) = torch.autograd.grad(value, D)
    assert gradient.norm() < 1e-9


@pytest.mark.parametrize("residual", [0.01, 0.2, 5.0])
def test_one_point_of_the_curve_is_the_closed_form_of_squared_error(residual: float) -> None:
    """``tau = 1``: the minimum of ``||(B + D) A - dW||^2 + lambda ||D||^2``, here by its gradient."""
    clients = drawn(3, (3, 3, 6, 5))
    (A, B), dW = clients.means, clients.products
    g, basis = torch.linalg.eigh(A @ A.T)
    R = (dW - B @ A) @ A.T
    D = (moved(B @ basis, R @ basis, g, 1.0, residual) @ basis.T).requires_grad_()
    torch.testing.assert_close(D.detach(), R @ torch.linalg.inv(A @ A.T + residual * torch.eye(3).double()))
    (gradient,) = torch.autograd.grad((((B + D) @ A - dW) ** 2).sum() + residual * (D**2).sum(), D)
    assert gradient.norm() < 1e-12


def test_without_a_penalty_the_nearest_maximiser_of_the_cosine() -> None:
    """All maximisers are ``t dW A^+`` with t > 0; the nearest is the projection of the mean on that ray."""
    clients = drawn(1, apart=0.3)
    (A, B), dW = clients.means, clients.products
    direction = dW @ torch.linalg.pinv(A)
    nearest = direction * (direction * B).sum() / (direction**2).sum()
    torch.testing.assert_close(B + corrected(clients, 0.0), nearest)
    torch.testing.assert_close(corrected(clients, 1e-9), corrected(clients, 0.0), atol=1e-5, rtol=0)


def test_directions_that_the_mean_of_a_lacks_are_left_alone() -> None:
    """Only the first of three components has a row in all A's: `D` is zero in the others' columns, at every lambda."""
    clients = drawn(6, (3, 3, 5, 4))
    clients.A[:, 1:] = 0
    for residual in (0.0, 0.003):
        D = corrected(clients, residual)
        assert D[:, 0].norm() > 1e-3
        assert D[:, 1:].abs().max() < 1e-12


def test_the_correction_wanes_as_its_price_rises_and_is_zero_from_the_slope_on() -> None:
    clients = drawn(1, apart=0.3)
    norms = [float(corrected(clients, residual).norm()) for residual in (0, 1e-4, 1e-3, 3e-3, 1e-2, 1, math.inf)]
    assert norms == sorted(norms, reverse=True)
    assert norms[3] > norms[4]
    assert norms[-2:] == [0, 0]


def test_nothing_is_sent_where_the_objective_has_no_minimum() -> None:
    """The products' mean is the opposite of the means' product: `f` falls as ``B + D`` goes to zero."""
    A, B = torch.eye(2).double(), torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    for residual in (0.0, 0.01):
        assert not correction(A, B, -2 * B, float(B.norm()), residual).any()
