"""Plain operations for the products of an adapter."""

from __future__ import annotations

import pytest
import torch

from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels

ROWS, SCALE, SCALING = 3, 1.25, 0.5


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("placed", [False, True])
def test_factors_are_scaled_and_cast_where_they_belong(placed: bool, gated: bool) -> None:
    """The first by the dropout's scale, the second by gates and the adapter's; other rows stay."""
    generator = torch.Generator().manual_seed(1)
    A, B_t, c = (torch.randn(shape, generator=generator) for shape in ((ROWS, 4), (ROWS, 5), (ROWS,)))
    places = torch.tensor([4, 0, 2]) if placed else None
    length = 5 if placed else ROWS
    to_A, to_B_t = torch.zeros(length, 4, dtype=torch.float64), torch.zeros(length, 5, dtype=torch.float64)
    kernels = TorchKernels(torch.device("cpu"))
    kernels.prepare((A, B_t, c if gated else None), to_A, to_B_t, SCALING, scale=SCALE, places=places)
    there = torch.arange(ROWS) if places is None else places
    torch.testing.assert_close(to_A[there], SCALE * A.double())
    torch.testing.assert_close(to_B_t[there], SCALING * (c[:, None] if gated else 1) * B_t.double())
    others = [row for row in range(length) if row not in there]
    assert not to_A[others].any()
    assert not to_B_t[others].any()


def test_a_factor_that_is_computed_with_as_it_is_stays() -> None:
    A, B_t = torch.ones(ROWS, 4), torch.ones(ROWS, 5)
    out = torch.zeros(ROWS, 5)
    TorchKernels(torch.device("cpu")).prepare((A, B_t, None), A, out, SCALING)
    assert torch.equal(A, torch.ones(ROWS, 4))
    assert torch.equal(out, SCALING * B_t)
