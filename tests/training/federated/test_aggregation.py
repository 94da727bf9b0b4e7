"""What the server makes of the clients' factors, against whole matrices."""

from __future__ import annotations

import pytest
import torch

from dora_cli.training.federated.aggregation import AGGREGATIONS, average, exact, lora_fair
from tests.training.federated.clients import Clients, drawn

every = pytest.mark.parametrize("name", AGGREGATIONS)
RESIDUAL = 1e-3


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_and_size_are_those_of_whole_matrices(name: str, dtype: torch.dtype) -> None:
    clients = drawn(0, (4, 3, 6, 5), apart=0.5)
    merged = AGGREGATIONS[name](clients.A.to(dtype), clients.B.to(dtype), clients.weights, RESIDUAL)
    (A, B), dW = clients.means, clients.products
    near = {"atol": 0, "rtol": 1e-10 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(merged.distance, (B @ A - dW).norm(), **near)
    torch.testing.assert_close(merged.size, dW.norm(), **near)
    assert merged.A.dtype == merged.B.dtype == dtype
    assert merged.correction.dtype == torch.float64
    assert merged.correction.shape == merged.distance.shape == merged.size.shape == ()


def test_the_average_is_that_of_each_factor() -> None:
    clients = drawn(0)
    merged = average(*clients, RESIDUAL)
    torch.testing.assert_close((merged.A, merged.B), clients.means)
    assert merged.correction == 0


def test_the_correction_is_what_b_moved_by() -> None:
    clients = drawn(0)
    merged = lora_fair(*clients, RESIDUAL)
    A, B = clients.means
    torch.testing.assert_close(merged.A, A)
    torch.testing.assert_close(merged.correction, (merged.B - B).norm())
    assert merged.correction > 0.1


@pytest.mark.parametrize(
    "shapes", [(3, 2, 7, 6), (5, 2, 4, 3), (3, 4, 3, 5), (1, 3, 5, 4)], ids=["", "wider", "flat", "one"]
)
def test_exact_is_the_best_product_of_the_rank(shapes: tuple[int, int, int, int]) -> None:
    """By a singular value decomposition of the whole matrix (Eckart and Young); also where ``K r`` is above both
    widths, where the rank is above one, and with one client.
    """
    clients = drawn(7, shapes)
    merged = exact(*clients, RESIDUAL)
    U, S, Vh = torch.linalg.svd(clients.products, full_matrices=False)
    rank = shapes[1]
    torch.testing.assert_close(merged.B @ merged.A, (U[:, :rank] * S[:rank]) @ Vh[:rank])
    assert merged.A.shape == clients.A.shape[1:]
    assert merged.B.shape == clients.B.shape[1:]


def test_of_all_bases_exact_takes_that_nearest_to_the_mean() -> None:
    """Rows orthogonal, of the mean length; no other rotation of them is nearer to the mean."""
    clients = drawn(7, (3, 3, 8, 6), apart=0.4)
    merged, (mean, _) = exact(*clients, RESIDUAL), clients.means
    gram = merged.A @ merged.A.T
    torch.testing.assert_close(gram, mean.norm(dim=1).mean() ** 2 * torch.eye(3).double())
    distance = (merged.A - mean).norm()
    for seed in range(50):
        angles = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double()
        rotation = torch.linalg.matrix_exp((angles - angles.T) * 0.1 * (seed + 1))
        assert (rotation @ merged.A - mean).norm() > distance


def test_equal_factors_come_back_from_exact_where_their_rows_are_orthogonal() -> None:
    """So the optimiser's moments fit: nothing turns that need not."""
    A = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double())[0].T
    B = drawn(1, (2, 3, 6, 5)).B
    merged = exact(0.7 * A.expand(2, 3, 6), B, torch.tensor([0.5, 0.5]), RESIDUAL)
    torch.testing.assert_close((merged.A, merged.B), (0.7 * A, B.mean(0)))


@every
def test_equal_as_leave_no_residual(name: str) -> None:
    """The mean of the products is the product of the means then: not nearly, but exactly."""
    clients = drawn(3, (4, 3, 6, 5))
    merged = AGGREGATIONS[name](clients.A[:1].expand(4, -1, -1), clients.B, clients.weights, 0.0)
    assert merged.distance == merged.correction == 0
    if name != "exact":
        assert torch.equal(merged.A, clients.A[0])
        torch.testing.assert_close(merged.B, clients.means[1])
    torch.testing.assert_close(merged.B @ merged.A, clients.means[1] @ clients.A[0])


@pytest.mark.parametrize("name", ["lora-fair", "average"])
def test_of_one_client_the_factors_come_back_bit_for_bit(name: str) -> None:
    A, B, _ = drawn(2, (1, 4, 9, 7))
    merged = AGGREGATIONS[name](A.float(), B.float(), torch.ones(1), 0.0)
    assert torch.equal(merged.A, A[0].float())
    assert torch.equal(merged.B, B[0].float())
    assert merged.distance == merged.correction == 0


def test_an_infinite_price_gives_the_average() -> None:
    clients = drawn(0)
    fair, mean = lora_fair(*clients, float("inf")), average(*clients, 0.0)
    assert torch.equal(fair.A, mean.A)
    assert torch.equal(fair.B, mean.B)


@every
def test_the_order_of_the_clients_says_nothing(name: str) -> None:
    clients = drawn(8, (4, 3, 7, 6), apart=0.5)
    order = [2, 0, 3, 1]
    merged = AGGREGATIONS[name](*clients, RESIDUAL)
    other = AGGREGATIONS[name](*(tensor[order] for tensor in clients), RESIDUAL)
    torch.testing.assert_close((other.A, other.B, other.distance), (merged.A, merged.B, merged.distance))


@every
@pytest.mark.parametrize("residual", [0.0, 0.01])
def test_where_all_bs_are_zero_nothing_is_corrected(name: str, residual: float) -> None:
    """The first round of a learning rate of zero."""
    A, B, weights = drawn(2)
    merged = AGGREGATIONS[name](A, torch.zeros_like(B), weights, residual)
    torch.testing.assert_close(merged.A, Clients(A, B, weights).means[0])
    assert not merged.B.any()
    assert merged.size == merged.distance == merged.correction == 0


@every
def test_means_that_vanish_are_no_trouble(name: str) -> None:
    """Two clients of opposite factors: both have the same product, the product of the means is zero."""
    A, B, _ = drawn(2, (1, 2, 5, 4))
    merged = AGGREGATIONS[name](torch.cat([A, -A]), torch.cat([B, -B]), torch.tensor([0.5, 0.5]), 0.01)
    wanted = B[0] @ A[0] if name == "exact" else torch.zeros(4, 5).double()
    torch.testing.assert_close(merged.B @ merged.A, wanted)
    torch.testing.assert_close(merged.distance, (B[0] @ A[0]).norm())


def test_a_component_that_no_client_uses_keeps_its_row_in_exact() -> None:
    """Where the mean of products has a lower rank, the rest of `A` is the mean's, with nothing in `B`."""
    clients = drawn(4, (3, 3, 6, 5))
    clients.A[:], clients.B[:, :, 2] = clients.A[:1].clone(), 0
    merged = exact(*clients, RESIDUAL)
    torch.testing.assert_close(merged.B @ merged.A, clients.products)
    assert torch.linalg.matrix_rank(merged.B) == 2
    assert torch.linalg.matrix_rank(merged.A) == 3


@pytest.mark.gpu
@every
def test_a_gpu_agrees(name: str) -> None:
    clients = drawn(8, (4, 3, 7, 6), apart=0.5)
    there = AGGREGATIONS[name](clients.A.cuda(), clients.B.cuda(), clients.weights, RESIDUAL)
    here = AGGREGATIONS[name](*clients, RESIDUAL)
    for field in ("A", "B", "correction", "distance", "size"):
        assert getattr(there, field).device.type == "cuda"
        torch.testing.assert_close(getattr(there, field).cpu(), getattr(here, field))
