"""LoRA-Pro's gradients and the Riemannian ones: what they promise, by explicit matrices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.gradients.adjusted import Pair, adjusted, closest, equivalent, scaled
from dora_cli.methods.low_rank.layer import AdaptedProjection

SCALE = 1.7
SHAPES = [(14, 9, 3), (14, 9, 3), (6, 11, 3), (6, 11, 2)]
"""`d_out`, `d_in` and rank of four projections in three groups, two of one rank."""


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """Projections with a gradient `g` of the whole weight each, and what autograd makes of it for the factors."""

    def __init__(self, change: str = "") -> None:
        self.A = [drawn(r, d_in, seed=1 + i) for i, (_, d_in, r) in enumerate(SHAPES)]
        self.B = [drawn(d_out, r, seed=11 + i) for i, (d_out, _, r) in enumerate(SHAPES)]
        for A, B in zip(self.A, self.B, strict=True):
            if change == "B = 0":
                B.zero_()
            if change == "equal components":
                A[1], B[:, 1] = A[0], B[:, 0]
            if change == "both 0":
                A.zero_(), B.zero_()
        self.g = [drawn(d_out, d_in, seed=21 + i) for i, (d_out, d_in, _) in enumerate(SHAPES)]
        self.h = [(SCALE * B.T @ g, SCALE * g @ A.T) for A, B, g in zip(self.A, self.B, self.g, strict=True)]
        layers = []
        for (d_out, d_in, _), A, B in zip(SHAPES, self.A, self.B, strict=True):
            base = nn.Linear(d_in, d_out, dtype=torch.float64)
            layers.append(AdaptedProjection(base, A.clone(), B.clone(), scaling=SCALE, dropout=0.0))
        self.groups = [Components(layers[:2]), Components(layers[2:3]), Components(layers[3:])]

    def found(self, rule, damping: float, gradients: Sequence[Pair] | None = None) -> list[Pair]:  # type: ignore[no-untyped-def]
        """`gA` and `gB` of each projection."""
        h = self.h if gradients is None else gradients
        rows = [(torch.cat([a for a, _ in part]), torch.cat([b.T for _, b in part])) for part in (h[:2], h[2:3], h[3:])]
        given = adjusted(self.groups, rows, rule, damping)
        pairs = []
        for (of_A, of_B_t), count in zip(given, (2, 1, 1), strict=True):
            pairs += [(a, b.T) for a, b in zip(of_A.chunk(count), of_B_t.chunk(count), strict=True)]
        return pairs

    def moved(self, pairs: Sequence[Pair]) -> list[torch.Tensor]:
        """The equivalent gradient of each projection."""
        return [SCALE * (B @ gA + gB @ A) for A, B, (gA, gB) in zip(self.A, self.B, pairs, strict=True)]


def close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def projector(columns: torch.Tensor) -> torch.Tensor:
    q, _ = torch.linalg.qr(columns)
    return q @ q.T


@pytest.mark.parametrize("rule", [closest, equivalent])
def test_the_equivalent_gradient_is_the_nearest_to_the_weight_s_own(rule) -> None:  # type: ignore[no-untyped-def]
    """``P_B g + g P_A - P_B g P_A``, whichever `X`: the orthogonal projection onto all that two factors can do."""
    case = Case()
    expected = []
    for A, B, g in zip(case.A, case.B, case.g, strict=True):
        P_B, P_A = projector(B), projector(A.T)
        expected.append(P_B @ g + g @ P_A - P_B @ g @ P_A)
    close(case.moved(case.found(rule, 0.0)), expected)
    # as autograd has them, factors follow another direction
    assert all(float((one - other).norm()) > 1 for one, other in zip(case.moved(case.h), expected, strict=True))


def test_no_X_changes_it_and_the_chosen_one_keeps_nearest_to_autograd_s() -> None:
    """At the least of a square, its slope along every entry of `X` is 0, and it rises in every direction."""
    case = Case()
    pairs = case.found(closest, 0.0)
    plain = case.found(equivalent, 0.0)
    for index, (A, B, (gA, gB), (hA, hB)) in enumerate(zip(case.A, case.B, pairs, case.h, strict=True)):
        assert float((gA - plain[index][0]).norm()) > 0.1
        close([(gA - hA) @ A.T - B.T @ (gB - hB)], [torch.zeros(len(A), len(A), dtype=torch.float64)])

        def distance(X: torch.Tensor, own=(A, B, gA, gB, hA, hB)) -> torch.Tensor:  # type: ignore[no-untyped-def]
            A, B, gA, gB, hA, hB = own
            return (gA + X @ A - hA).square().sum() + (gB - B @ X - hB).square().sum()

        least = distance(torch.zeros(len(A), len(A), dtype=torch.float64))
        for seed in range(20):
            X = 0.1 * drawn(len(A), len(A), seed=seed)
            assert distance(X) > least
            close([SCALE * (B @ (gA + X @ A) + (gB - B @ X) @ A)], [case.moved(pairs)[index]])


def test_the_first_step_is_the_published_one_without_a_branch() -> None:
    """Where `B` is 0, autograd gives `A` a gradient of exactly 0, and however small the damping it stays that."""
    case = Case("B = 0")
    for A, (gA, gB), (hA, hB) in zip(case.A, case.found(closest, 1e-8), case.h, strict=True):
        assert not hA.any()
        assert not gA.any()
        damped = A @ A.T + 1e-8 * torch.eye(len(A), dtype=torch.float64)
        close([gB], [hB @ torch.linalg.inv(damped) / SCALE**2])


def test_equal_components_share_what_one_of_them_would_do() -> None:
    """Rank-deficient factors: damped, the equivalent gradient is that of the components that differ."""
    case = Case("equal components")
    expected = []
    for A, B, g in zip(case.A, case.B, case.g, strict=True):
        others = [index for index in range(len(A)) if index != 1]
        P_B, P_A = projector(B[:, others]), projector(A[others].T)
        expected.append(P_B @ g + g @ P_A - P_B @ g @ P_A)
    for one, other in zip(case.moved(case.found(closest, 1e-8)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", [closest, equivalent, scaled])
@pytest.mark.parametrize("change", ["B = 0", "equal components", "both 0"])
def test_damped_gradients_are_finite(rule, change: str) -> None:  # type: ignore[no-untyped-def]
    case = Case(change)
    assert all(tensor.isfinite().all() for pair in case.found(rule, 1e-8) for tensor in pair)


def test_riemannian_gradients_by_explicit_inverses() -> None:
    case = Case()
    for A, B, (gA, gB), (hA, hB) in zip(case.A, case.B, case.found(scaled, 0.3), case.h, strict=True):
        damped = 0.3 * torch.eye(len(A), dtype=torch.float64)
        close([gA, gB], [torch.linalg.inv(B.T @ B + damped) @ hA, hB @ torch.linalg.inv(A @ A.T + damped)])


def test_riemannian_gradients_do_not_depend_on_how_lengths_are_shared() -> None:
    """Undamped, the same update moves alike whichever way a change of basis is shared between its factors."""
    case, other = Case(), Case()
    before = case.moved(case.found(scaled, 0.0))
    turned, h = [], []
    for index, (A, B, g) in enumerate(zip(case.A, case.B, case.g, strict=True)):
        M = drawn(len(A), len(A), seed=31 + index)
        A, B = M @ A, B @ torch.linalg.inv(M)
        turned.append((A, B))
        h.append((SCALE * B.T @ g, SCALE * g @ A.T))
    other.A, other.B = [A for A, _ in turned], [B for _, B in turned]
    for group, part in zip(other.groups, (turned[:2], turned[2:3], turned[3:]), strict=True):
        group.A.copy_(torch.cat([A for A, _ in part]))
        group.B_t.copy_(torch.cat([B.T for _, B in part]))
    close(other.moved(other.found(scaled, 0.0, h)), before)
