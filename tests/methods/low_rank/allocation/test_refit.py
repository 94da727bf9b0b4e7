"""What is kept makes up for what is cut: least squares over single inputs, written out."""

from __future__ import annotations

import pytest
import torch

from dora_cli.methods.low_rank.allocation.refit import refit

M, RANK, D_OUT, TOKENS = 4, 5, 7, 60


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


U = drawn(M, TOKENS, RANK, seed=1) @ drawn(M, RANK, RANK, seed=2)
"""What components give, which overlap."""
B_t = drawn(M, RANK, D_OUT, seed=3)
C = U.mT @ U / TOKENS
KEEP = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.bool)


def test_the_rows_that_stay_come_nearest_to_what_was_given() -> None:
    found = refit(B_t, C, KEEP)
    for number, keep in enumerate(KEEP):
        u, y = U[number], U[number] @ B_t[number]
        expected = torch.zeros_like(B_t[number])
        if keep.any():
            expected[keep] = torch.linalg.lstsq(u[:, keep], y).solution
        # RIDGE times what there was to make up for is the difference
        torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-4)
        error = (u @ found[number] - y).square().sum()
        assert error <= (u[:, keep] @ B_t[number][keep] - y).square().sum() + 1e-9
        if keep.any():
            for seed in range(5):  # nothing near is better
                moved = found[number] + 1e-2 * drawn(RANK, D_OUT, seed=seed) * keep[:, None]
                assert (u @ moved - y).square().sum() > error
    assert torch.equal(found[1], B_t[1])
    assert not found[2].any()


def test_what_another_one_holds_too_is_not_lost() -> None:
    """Components 0 and 1 give the same, so one of them can do for both."""
    u = U[0].clone()
    u[:, 1] = 2 * u[:, 0]
    keep = torch.tensor([True, False, True, True, True])
    found = refit(B_t[:1], (u.T @ u / TOKENS)[None], keep[None])[0]
    torch.testing.assert_close(u @ found, u @ B_t[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_inputs_and_without_a_cut_everything_stays(dtype: torch.dtype) -> None:
    rows, all_of_them = B_t.to(dtype), torch.ones_like(KEEP)
    assert torch.equal(refit(rows, torch.zeros_like(C), KEEP), rows * KEEP[..., None])
    assert torch.equal(refit(rows, C.to(dtype), all_of_them), rows)


def test_components_that_two_cannot_be_told_apart_share_what_goes() -> None:
    """All three give the same; no solution is unique, and none may be large."""
    u = U[0][:, :1].expand(-1, 3)
    rows = B_t[:1, :3]
    found = refit(rows, (u.T @ u / TOKENS)[None], torch.tensor([[True, True, False]]))[0]
    torch.testing.assert_close(u @ found, u @ rows[0], rtol=1e-4, atol=1e-4)
    assert found.abs().max() <= rows.abs().sum()
