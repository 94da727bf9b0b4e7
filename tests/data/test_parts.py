"""Parts of a split for clients: disjoint, complete, seeded."""

from __future__ import annotations

import numpy as np
import pytest

from dora_cli.data.batches import Indices
from dora_cli.data.parts import even_parts, parts_by_class

LABELS = np.random.default_rng(0).integers(0, 3, 400).tolist()


def by_class(clients: int, alpha: float = 0.5, seed: int = 1) -> list[Indices]:
    found = parts_by_class(LABELS, clients, alpha, seed)
    assert found is not None
    return found


def assert_disjoint_and_complete(parts: list[Indices], count: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize(("count", "clients"), [(12, 4), (13, 4), (3, 3), (400, 7)])
def test_even_parts_hold_every_example_once(count: int, clients: int) -> None:
    parts = even_parts(count, clients, seed=1)
    assert_disjoint_and_complete(parts, count)
    sizes = [len(part) for part in parts]
    assert len(sizes) == clients
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("clients", [2, 5, 20])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 1e38])
def test_parts_by_class_hold_every_example_once(clients: int, alpha: float) -> None:
    parts = by_class(clients, alpha)
    assert_disjoint_and_complete(parts, len(LABELS))
    assert len(parts) == clients
    assert all(len(part) for part in parts)


def test_one_client_has_all_in_order() -> None:
    assert np.array_equal(even_parts(9, 1, seed=4)[0], np.arange(9))
    assert np.array_equal(by_class(1)[0], np.arange(len(LABELS)))


def test_a_seed_decides_the_parts() -> None:
    def same(one: list[Indices], two: list[Indices]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))

    assert same(even_parts(50, 4, seed=1), even_parts(50, 4, seed=1))
    assert not same(even_parts(50, 4, seed=1), even_parts(50, 4, seed=2))
    assert same(by_class(4, seed=1), by_class(4, seed=1))
    assert not same(by_class(4, seed=1), by_class(4, seed=2))


def test_parts_are_drawn_from_other_numbers_than_the_order_of_the_first_epoch() -> None:
    """A seed alone and the same seed with a zero behind it are one stream to NumPy."""
    assert np.array_equal(np.random.default_rng(1).permutation(50), np.random.default_rng([1, 0]).permutation(50))
    first_epoch = np.random.default_rng([1, 0]).permutation(50)
    assert not np.array_equal(even_parts(50, 2, seed=1)[0], np.sort(first_epoch[:25]))


def test_a_large_alpha_gives_all_clients_equal_shares_of_every_class() -> None:
    labels = [0] * 200 + [1] * 600
    parts = parts_by_class(labels, 4, 1e12, seed=3)
    assert parts is not None
    counts = [np.bincount(np.array(labels)[part]).tolist() for part in parts]
    assert counts == [[50, 150]] * 4


def test_a_small_alpha_gives_nearly_all_of_a_class_to_one_client() -> None:
    labels = [0] * 300 + [1] * 300
    parts = parts_by_class(labels, 2, 0.01, seed=1)
    assert parts is not None
    counts = np.array([np.bincount(np.array(labels)[part], minlength=2) for part in parts])
    assert (counts.max(axis=0) >= 290).all()


def test_shares_are_those_of_a_dirichlet_distribution() -> None:
    """A share of a symmetric one over K clients has mean 1/K and variance (K - 1) / (K^2 (K alpha + 1))."""
    labels, clients, alpha = [0] * 2000, 4, 2.0
    shares = []
    for seed in range(300):
        parts = parts_by_class(labels, clients, alpha, seed)
        assert parts is not None
        shares.append([len(part) / len(labels) for part in parts])
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert np.mean(shares, axis=0) == pytest.approx([1 / clients] * clients, abs=4 * (variance / 300) ** 0.5)
    assert np.var(shares, axis=0) == pytest.approx([variance] * clients, rel=0.35)


def test_shares_that_leave_a_client_without_examples_are_drawn_again() -> None:
    """Two classes of 20 examples seldom reach six clients in the first draw at 0.3."""
    labels = [0] * 20 + [1] * 20
    for seed in range(20):
        parts = parts_by_class(labels, 6, 0.3, seed)
        assert parts is not None
        assert all(len(part) for part in parts)


def test_there_is_no_part_for_more_clients_than_examples_of_classes_in_one_piece() -> None:
    assert parts_by_class([0] * 50 + [1] * 50, 3, 1e-6, seed=1) is None
