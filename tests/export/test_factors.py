"""Factors made ready for a file."""

from __future__ import annotations

import pytest
import torch

from dora_cli.export.factors import Size, balance, lay_out, pad, padded_rank
from dora_cli.methods.base import LoraFactors


def factors(rank: int, d_in: int = 12, d_out: int = 20, seed: int = 0) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator))


def product(one: LoraFactors) -> torch.Tensor:
    return one.B.double() @ one.A.double()


def test_balanced_factors_have_the_same_product_and_equal_norms() -> None:
    before = factors(5)
    before.B.mul_(torch.tensor([1.0, 1e-4, -3.0, 1e3, 1e-8]))
    after = balance(before)
    torch.testing.assert_close(after.A.norm(dim=1), after.B.norm(dim=0), rtol=1e-6, atol=0)
    for i in range(5):  # each component, not only their sum, in which the large ones would hide the small
        one, other = (torch.outer(part.B[:, i].double(), part.A[i].double()) for part in (before, after))
        torch.testing.assert_close(other, one, rtol=1e-6, atol=0)
    assert after.A.dtype == after.B.dtype == torch.float32


def test_a_component_that_adds_nothing_is_zero_in_both_factors() -> None:
    before = factors(3)
    before.B[:, 0] = 0
    before.A[2] = 0
    after = balance(before)
    assert not after.A[[0, 2]].any()
    assert not after.B[:, [0, 2]].any()
    torch.testing.assert_close(product(after), product(before), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gate", [1e-7, 1e-10])
def test_a_tiny_gate_survives_a_half_type(dtype: torch.dtype, gate: float) -> None:
    """1e-10 is nothing in fp16, whose smallest number is 6e-8; its square root is 1e-5, of which a few
    bits are left.
    """
    before = factors(4)
    before.B.mul_(gate)
    after = balance(before)

    def error(one: LoraFactors) -> float:
        rounded = LoraFactors(one.A.to(dtype), one.B.to(dtype))
        return float((product(rounded) - product(before)).norm() / product(before).norm())

    assert error(after) < 0.01
    assert error(after) <= error(before) * 1.5
    if dtype == torch.float16:
        assert error(before) > 0.05


def test_padding_adds_zero_components() -> None:
    before = {name: factors(rank, seed=rank) for name, rank in (("a", 1), ("b", 3), ("c", 5), ("d", 4))}
    for padding, ranks in (("none", [1, 3, 5, 4]), ("power-of-two", [1, 4, 8, 4]), ("common", [5, 5, 5, 5])):
        after = pad(before, padding)
        assert [one.rank for one in after.values()] == ranks
        for name, one in after.items():
            rank = before[name].rank
            assert torch.equal(one.A[:rank], before[name].A)
            assert torch.equal(one.B[:, :rank], before[name].B)
            assert not one.A[rank:].any()
            assert not one.B[:, rank:].any()
        assert Size.of(after) == Size(sum(ranks), sum(ranks) * 32)
    assert pad({}, "common") == {}


def test_ranks_of_padding() -> None:
    assert [padded_rank(rank, "power-of-two", 99) for rank in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


def test_constant_alpha_leaves_the_update_and_the_balance() -> None:
    before = {name: balance(factors(rank, seed=rank)) for name, rank in (("a", 1), ("b", 3), ("c", 5))}
    after = lay_out(before, "constant-alpha")
    for name, one in after.items():
        assert one.rank == before[name].rank
        torch.testing.assert_close(5 / one.rank * product(one), product(before[name]), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(one.A.norm(dim=1), one.B.norm(dim=0), rtol=1e-6, atol=0)
    assert lay_out(before, "patterns") == before
    assert [one.rank for one in lay_out(before, "uniform").values()] == [5, 5, 5]
    assert lay_out({}, "constant-alpha") == lay_out({}, "uniform") == {}
