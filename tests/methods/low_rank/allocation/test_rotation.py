"""Rotations: the same function of other components, optimal to truncate, with the moments that belong to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from dora_cli.methods.carry import carried
from dora_cli.methods.low_rank.allocation.rotation import ROTATIONS, Rotated, Rotation

Pair = tuple[torch.Tensor, torch.Tensor]
"""Something of `A` and of the transpose of `B`."""

SCALE = 1.7
N, D_OUT, D_IN, RANK = 3, 11, 9, 5
"""Projections, and their shape."""


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """Projections of one shape with gates, and tokens that they read, `x`, ``(n, tokens, d_in)``, of very different
    size in different directions.
    """

    def __init__(self, *, d_out: int = D_OUT, d_in: int = D_IN, rank: int = RANK, seed: int = 0) -> None:
        self.A = drawn(N, rank, d_in, seed=seed + 1)
        self.B_t = drawn(N, rank, d_out, seed=seed + 2)
        self.c: torch.Tensor | None = drawn(N, rank, seed=seed + 3)
        sizes = torch.logspace(0.5, -1.5, d_in, dtype=torch.float64)
        self.x = (drawn(N, 200, d_in, seed=seed + 4) * sizes) @ torch.linalg.qr(drawn(N, d_in, d_in, seed=seed + 5)).Q

    @property
    def gates(self) -> torch.Tensor:
        return torch.ones_like(self.A[..., 0]) if self.c is None else self.c

    @property
    def update(self) -> torch.Tensor:
        """``s B diag(c) A``, ``(n, d_out, d_in)``."""
        return SCALE * self.B_t.mT @ (self.gates[..., None] * self.A)

    @property
    def second_moments(self) -> torch.Tensor:
        """``E[u u^T]`` of ``u = A x``."""
        u = self.x @ self.A.mT
        return u.mT @ u / u.shape[1]

    def metric(self, name: str) -> torch.Tensor:
        """`Z` of the whole input, ``(n, d_in, d_in)``: of the errors, ``tr(E Z E^T)`` is the squared one."""
        if name == "weight":
            return torch.eye(self.x.shape[2], dtype=torch.float64).expand(N, -1, -1)
        return self.x.mT @ self.x / self.x.shape[1]

    def rotated(self, name: str) -> Rotated:
        return rotation(name)(self.A, self.B_t, self.c, SCALE, self.second_moments)


def rotation(name: str) -> Rotation:
    found = ROTATIONS[name]
    assert found is not None
    return found


def product(new: Rotated) -> torch.Tensor:
    return SCALE * new.B_t.mT @ new.A


def error(lost: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """``tr(E Z E^T)`` of every projection."""
    return ((lost @ metric) * lost).sum((-2, -1))


def no_gates(case: Case) -> None:
    case.c = None


def zero_gates(case: Case) -> None:
    case.gates[0, 2] = case.gates[1, :3] = 0.0
    case.gates[2] = 0.0


def equal_rows(case: Case) -> None:
    case.A[0, 3] = case.A[0, 1]
    case.A[1, 4] = case.A[1, :3].sum(0)
    case.A[2, 1:] = case.A[2, :1]


def zero_rows(case: Case) -> None:
    case.A[0, 2] = 0.0
    case.A[1] = 0.0


def dependent_columns(case: Case) -> None:
    case.B_t[0, 3] = -2 * case.B_t[0, 1]
    case.B_t[1, 1:] = case.B_t[1, :1]


def no_B(case: Case) -> None:
    case.B_t.zero_()


def no_inputs(case: Case) -> None:
    case.x.zero_()


def few_inputs(case: Case) -> None:
    """Fewer tokens than components."""
    case.x = case.x[:, :2]


CHANGES: list[Callable[[Case], None]] = [
    no_gates,
    zero_gates,
    equal_rows,
    zero_rows,
    dependent_columns,
    no_B,
    no_inputs,
    few_inputs,
]
both = pytest.mark.parametrize("name", ["weight", "input"])


def changed(change: Callable[[Case], None] | None) -> Case:
    case = Case()
    if change is not None:
        change(case)
    return case


# -- the function ------------------------------------------------------------------------------------------------------


def test_the_table_says_what_reads_inputs() -> None:
    assert list(ROTATIONS) == ["none", "weight", "input"]
    assert ROTATIONS["none"] is None
    assert not rotation("weight").reads_inputs
    assert rotation("input").reads_inputs


@both
@pytest.mark.parametrize("change", [None, *CHANGES])
def test_the_function_stays(name: str, change: Callable[[Case], None] | None) -> None:
    case = changed(change)
    new = case.rotated(name)
    assert (new.A.shape, new.B_t.shape) == (case.A.shape, case.B_t.shape)
    torch.testing.assert_close(product(new), case.update, rtol=0, atol=1e-11)


@both
@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(3, 9, 5), (11, 3, 5), (3, 4, 6), (4, 3, 6), (1, 1, 1)])
def test_the_function_stays_where_there_are_more_components_than_the_shape_has_room_for(
    name: str, d_out: int, d_in: int, rank: int
) -> None:
    case = Case(d_out=d_out, d_in=d_in, rank=rank)
    new = case.rotated(name)
    torch.testing.assert_close(product(new), case.update, rtol=0, atol=1e-11)
    assert (new.values[:, min(d_out, d_in) :] < 1e-20).all()
    torch.testing.assert_close(error(case.update, case.metric(name)), new.values.sum(1), rtol=1e-5, atol=0)


@both
def test_in_single_precision_the_function_stays_to_its_rounding(name: str) -> None:
    case = Case()
    single = [tensor.float() for tensor in (case.A, case.B_t, case.gates)]
    new = rotation(name)(*single, SCALE, case.second_moments.float())
    assert {tensor.dtype for tensor in (new.A, new.B_t, new.values)} == {torch.float32}
    size = float(case.update.norm())
    assert float((SCALE * new.B_t.double().mT @ new.A.double() - case.update).norm()) < 1e-6 * size


@both
@pytest.mark.parametrize("change", [None, *CHANGES])
def test_every_new_row_of_A_has_the_mean_norm_of_the_old_ones(name: str, change: Callable[[Case], None] | None) -> None:
    case = changed(change)
    mean = case.A.norm(dim=2).mean(1, keepdim=True).expand(-1, RANK)
    torch.testing.assert_close(case.rotated(name).A.norm(dim=2), mean, rtol=1e-12, atol=0)


# -- components --------------------------------------------------------------------------------------------------------


@both
def test_components_do_not_overlap_and_fall_by_what_they_are_worth(name: str) -> None:
    """Explicitly: ``<E_i, E_j> = tr(E_i Z E_j^T)`` of the matrices ``E_i = s b_i a_i^T``."""
    case = Case()
    new, metric = case.rotated(name), case.metric(name)
    parts = SCALE * new.B_t[..., :, None] * new.A[..., None, :]  # (n, r, d_out, d_in)
    products = torch.einsum("niab,nbc,njac->nij", parts, metric, parts)
    torch.testing.assert_close(products, torch.diag_embed(new.values), rtol=1e-9, atol=1e-9)
    assert (new.values.diff(dim=1) < 0).all()
    cosines = torch.nn.functional.normalize(new.B_t, dim=2)
    torch.testing.assert_close(cosines @ cosines.mT, torch.eye(RANK).double().expand(N, -1, -1), rtol=0, atol=1e-9)
    if name == "weight":
        cosines = torch.nn.functional.normalize(new.A, dim=2)
        torch.testing.assert_close(cosines @ cosines.mT, torch.eye(RANK).double().expand(N, -1, -1), rtol=0, atol=1e-9)


@both
def test_values_are_the_squared_singular_values_of_the_update(name: str) -> None:
    case = Case()
    root = torch.linalg.cholesky(case.metric(name))
    singular = torch.linalg.svdvals(case.update @ root)[:, :RANK]
    torch.testing.assert_close(case.rotated(name).values, singular.square(), rtol=1e-9, atol=0)


@both
def test_truncation_is_the_best_of_all_updates_of_so_many_components(name: str) -> None:
    """Against alternating least squares from many starts, in the metric, which no start gets below; and it is better
    than every choice among the old components.
    """
    case = Case(seed=40)
    new, metric, update = case.rotated(name), case.metric(name), case.update
    for kept in range(1, RANK):
        lost = error(update - SCALE * new.B_t[:, :kept].mT @ new.A[:, :kept], metric)
        torch.testing.assert_close(lost, new.values[:, kept:].sum(1), rtol=1e-9, atol=0)
        found = torch.stack([squares(update, metric, kept, seed=seed) for seed in range(4)]).amin(0)
        assert (found > lost * (1 - 1e-9)).all()
        torch.testing.assert_close(found, lost, rtol=1e-3, atol=0)
        for chosen in itertools.combinations(range(RANK), kept):
            index = list(chosen)
            old = SCALE * case.B_t[:, index].mT @ (case.gates[:, index, None] * case.A[:, index])
            assert (error(update - old, metric) > lost).all()


def squares(update: torch.Tensor, metric: torch.Tensor, kept: int, *, seed: int) -> torch.Tensor:
    """The least error of a product of `kept` components that alternating least squares finds."""
    A = drawn(N, kept, update.shape[2], seed=seed)
    for _ in range(200):
        B = update @ metric @ A.mT @ torch.linalg.inv(A @ metric @ A.mT)
        A = torch.linalg.solve(B.mT @ B, B.mT @ update)
    return error(update - B @ A, metric)


def test_inputs_decide_otherwise_than_weights() -> None:
    case = Case()
    by_weight, by_input = case.rotated("weight"), case.rotated("input")
    lost = [
        error(case.update - SCALE * new.B_t[:, :2].mT @ new.A[:, :2], case.metric("input"))
        for new in (by_weight, by_input)
    ]
    assert (lost[1] < 0.9 * lost[0]).all()


@both
def test_a_second_rotation_changes_nothing_but_signs(name: str) -> None:
    case = Case()
    new = case.rotated(name)
    case.A, case.B_t, case.c = new.A, new.B_t, None
    again = case.rotated(name)
    torch.testing.assert_close(again.values, new.values, rtol=1e-9, atol=0)
    torch.testing.assert_close(again.A.abs(), new.A.abs(), rtol=0, atol=1e-8)
    torch.testing.assert_close(again.B_t.abs(), new.B_t.abs(), rtol=0, atol=1e-8)


@both
def test_values_do_not_depend_on_how_components_are_scaled(name: str) -> None:
    case = Case()
    expected = case.rotated(name).values
    k, m = drawn(N, RANK, seed=71).exp(), -drawn(N, RANK, seed=72).exp()
    case.A, case.B_t, case.c = case.A * k[..., None], case.B_t * m[..., None], case.gates / (k * m)
    torch.testing.assert_close(case.rotated(name).values, expected, rtol=1e-9, atol=0)


def everything(new: Rotated) -> list[torch.Tensor]:
    return [new.A, new.B_t, new.values, *new.carry_A, *new.carry_B]


@both
@pytest.mark.parametrize("change", [None, *CHANGES])
def test_all_at_once_is_one_by_one(name: str, change: Callable[[Case], None] | None) -> None:
    """Where components are worth nothing any choice is as good as another."""
    case = changed(change)
    whole = case.rotated(name)
    for index in range(N):
        part = slice(index, index + 1)
        gates = None if case.c is None else case.c[part]
        single = rotation(name)(case.A[part], case.B_t[part], gates, SCALE, case.second_moments[part])
        worth = single.values[0] > 1e-12
        for one, other in zip(everything(single), everything(whole), strict=True):
            torch.testing.assert_close(one[0, worth], other[index, worth], rtol=0, atol=1e-9)


# -- moments -----------------------------------------------------------------------------------------------------------


def gradients(A: torch.Tensor, B_t: torch.Tensor, c: torch.Tensor, G: torch.Tensor) -> Pair:
    """Autograd's, of a loss with the gradient `G` for the update."""
    A, B_t = A.clone().requires_grad_(), B_t.clone().requires_grad_()
    with torch.enable_grad():
        loss = (G * (SCALE * B_t.mT @ (c[..., None] * A))).sum()
    grad_A, grad_B_t = torch.autograd.grad(loss, [A, B_t])
    return grad_A, grad_B_t


def moments(A: torch.Tensor, B_t: torch.Tensor, c: torch.Tensor) -> list[Pair]:
    """First and second moments of ten steps at fixed weights."""
    means = [torch.zeros_like(A), torch.zeros_like(B_t)]
    squares = [torch.zeros_like(A), torch.zeros_like(B_t)]
    for step in range(10):
        G = drawn(N, B_t.shape[2], A.shape[2], seed=100 + step)
        for mean, square, gradient in zip(means, squares, gradients(A, B_t, c, G), strict=True):
            mean.mul_(0.9).add_(gradient, alpha=0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    return [(means[0], means[1]), (squares[0], squares[1])]


def both_carried(new: Rotated, first: Pair, second: Pair) -> list[Pair]:
    """First moments of `A` and `B_t`, then second ones."""
    ways = zip((new.carry_A, new.carry_B), first, second, strict=True)
    of_A, of_B = (carried(carry, mean, square) for carry, mean, square in ways)
    return [(of_A[0], of_B[0]), (of_A[1], of_B[1])]


def both_ways(case: Case, name: str) -> tuple[Rotated, list[Pair], list[Pair]]:
    """The rotation, the moments carried by it, and those of the same steps taken with the new components."""
    new = case.rotated(name)
    found = both_carried(new, *moments(case.A, case.B_t, case.gates))
    return new, list(found), moments(new.A, new.B_t, torch.ones_like(new.values))


@both
@pytest.mark.parametrize("change", [None, no_gates, dependent_columns, no_B, few_inputs])
def test_first_moments_are_those_of_the_new_components_gradients(
    name: str, change: Callable[[Case], None] | None
) -> None:
    case = changed(change)
    new, (first, _), (expected, _) = both_ways(case, name)
    assert new.carry_A.known.all()
    assert new.carry_B.known.all()
    for one, other in zip(first, expected, strict=True):
        assert float(one.norm()) > 0 or not case.B_t.any()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_matrices_are_those_of_the_reference() -> None:
    """``m_B' = (m_B / e) M_A^T`` and ``m_A' = M_B^T (m_A / e)`` with ``A' = M_A A`` and ``B' = (B e) e^-1 M_B``."""
    case = Case()
    new, e = case.rotated("input"), case.gates
    M_A, M_B = new.carry_B.matrix * e[:, None], (new.carry_A.matrix * e[:, None]).mT
    torch.testing.assert_close(M_A @ case.A, new.A, rtol=0, atol=1e-10)
    torch.testing.assert_close(case.B_t.mT @ M_B, new.B_t.mT, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize(
    ("change", "anew_A", "anew_B"),
    [(zero_gates, [0, 0, 0], [1, 3, 5]), (equal_rows, [1, 1, 4], [1, 1, 4]), (zero_rows, [1, 5, 0], [1, 0, 0])],
)
def test_what_cannot_be_carried_starts_anew(
    name: str, change: Callable[[Case], None], anew_A: list[int], anew_B: list[int]
) -> None:
    """A row of `B'` for every gate that is 0; one of both for every row of `A` that the others make up for. The rest is
    exact. Where all of `A` is 0, so are the gradients of `B` and `B'`, which is known.
    """
    case = changed(change)
    new, (first, second), (expected, _) = both_ways(case, name)
    assert (~new.carry_A.known).sum(1).tolist() == anew_A
    assert (~new.carry_B.known).sum(1).tolist() == anew_B
    for known, mean, square, exact in zip((new.carry_A.known, new.carry_B.known), first, second, expected, strict=True):
        torch.testing.assert_close(mean[known], exact[known], rtol=0, atol=1e-9)
        assert not mean[~known].any()
        for project in range(N):
            rest, usual = square[project][known[project]], square[project][~known[project]]
            anew = rest.mean(0) if len(rest) else torch.zeros_like(square[project, 0])
            torch.testing.assert_close(usual, anew.expand_as(usual), rtol=1e-12, atol=0)
    # nothing has been learned of what starts anew, and no component that is worth something does
    assert (new.values[~new.carry_B.known] < 1e-20).all()


def test_a_gate_next_to_zero_lends_its_moments_to_nobody() -> None:
    """Its history, divided by the gate, would drown that of the others."""
    case = Case()
    case.gates[:, 2] = 1e-5
    first, second = moments(case.A, case.B_t, case.gates)
    new = case.rotated("weight")
    assert (~new.carry_B.known).sum(1).tolist() == [1] * N
    found = both_carried(new, first, second)
    exact = moments(new.A, new.B_t, torch.ones_like(new.values))[0][1]
    torch.testing.assert_close(found[0][1][new.carry_B.known], exact[new.carry_B.known], rtol=0, atol=1e-3)
    first[1][:, 2] = second[1][:, 2] = 1.0  # of a time when it was open
    for (_, before), (_, after) in zip(found, both_carried(new, first, second), strict=True):
        assert torch.equal(before, after)


@both
def test_second_moments_are_exact_where_components_only_change_places(name: str) -> None:
    """Orthogonal components of the same norm of `A`, shuffled: the rotation sorts them, and signs may change."""
    case = Case()
    Q = torch.linalg.qr(drawn(N, D_IN, D_IN, seed=61)).Q
    case.A = 3.0 * Q[:, :RANK]
    case.x = torch.logspace(0.0, 1.0, D_IN, dtype=torch.float64)[:, None] * Q  # E[x x^T] has the rows of Q as its own
    case.B_t = torch.linalg.qr(drawn(N, D_OUT, D_OUT, seed=62)).Q[:, :RANK] * 2.0
    new, (_, second), (_, expected) = both_ways(case, name)
    for one, other in zip(second, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-15)
    places = (new.carry_A.matrix.abs() > 1e-9).sum(2)
    assert (places == 1).all(), "every new component is an old one"


def test_second_moments_take_components_for_uncorrelated() -> None:
    """For independent gradients of the old components, the carried moments are the expectation of the new squares."""
    case = Case()
    new = case.rotated("weight")
    square = drawn(N, RANK, D_IN, seed=81).square(), drawn(N, RANK, D_OUT, seed=82).square()
    draws = [drawn(20_000, N, RANK, 1, seed=83 + i) * part[None, ..., :1].sqrt() for i, part in enumerate(square)]
    _, found = both_carried(new, square, square)
    for carry, part, one in zip((new.carry_A, new.carry_B), draws, found, strict=True):
        seen = (carry.matrix @ part).square().mean(0)[..., 0]
        torch.testing.assert_close(one[..., 0], seen, rtol=5 * (2 / 20_000) ** 0.5, atol=0)


def test_moments_keep_their_types() -> None:
    case = Case()
    first, second = [tuple(part.float() for part in pair) for pair in moments(case.A, case.B_t, case.gates)]
    found = both_carried(case.rotated("weight"), (first[0], first[1]), (second[0], second[1]))
    assert {part.dtype for pair in found for part in pair} == {torch.float32}
    assert all((part >= 0).all() for part in found[1])
