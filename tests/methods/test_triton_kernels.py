"""The Triton kernels against plain tensor operations with the very same masks: on a GPU, or anywhere in Triton's interpreter.

The interpreter is asked for by ``TRITON_INTERPRET=1``; it checks the arithmetic, not the speed.
"""

from __future__ import annotations

import os

import pytest
import torch

from dora_cli.methods.dora.dropout import HASH_BITS, cut, hashed_keep, scale

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED:
    pytestmark = pytest.mark.gpu
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

BF16 = pytest.param(torch.bfloat16, id="bf16", marks=pytest.mark.skipif(INTERPRETED, reason="the interpreter's dot takes no bf16"))
types = pytest.mark.parametrize("dtype", [pytest.param(torch.float32, id="fp32"), BF16, pytest.param(torch.float16, id="fp16")])
shapes = pytest.mark.parametrize(("rows", "width", "rank"), [(40, 130, 3), (64, 256, 16), (17, 48, 40), (5, 16, 1)])
dropouts = pytest.mark.parametrize("probability", [0.0, 0.3])


def kernels(projections: int = 3):  # type: ignore[no-untyped-def]
    pytest.importorskip("triton")
    from dora_cli.methods.dora.triton_kernels import TritonKernels

    made = TritonKernels(torch.device(DEVICE), projections)
    made.begin()
    return made


def operands(rows: int, width: int, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    made = (torch.randn(*shape, generator=generator).to(DEVICE, dtype) for shape in ((rows, width), (rank, width), (rows, rank)))
    return tuple(made)  # type: ignore[return-value]


def dropped(x: torch.Tensor, drop: object, probability: float) -> torch.Tensor:
    if drop is None:
        return x.double()
    threshold = cut(probability, HASH_BITS)
    mask = hashed_keep(*x.shape, drop.seed.cpu(), drop.call, threshold).to(x.device)  # type: ignore[attr-defined]
    return x.double() * mask * scale(threshold, HASH_BITS)


def close(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    assert float((found.double() - exact).abs().max()) < TOLERANCE[dtype] * float(exact.abs().max())


@types
@shapes
@dropouts
def test_down(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float) -> None:
    x, factor, _ = operands(rows, width, rank, dtype)
    made = kernels()
    drop = made.drop(x, probability, 1) if probability else None
    found = made.down(x, factor, drop)
    assert found.dtype == dtype
    close(found, dropped(x, drop, probability) @ factor.double().T, dtype)


@types
@shapes
@dropouts
@pytest.mark.parametrize("out", [None, torch.float32], ids=["in place", "fp32"])
def test_up(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float, out: torch.dtype | None) -> None:
    base, factor, u = operands(rows, width, rank, dtype)
    made = kernels()
    drop = made.drop(base, probability, 0) if probability else None
    exact = base.double() + dropped((u.double() @ factor.double()), drop, probability)
    found = made.up(base, u, factor, drop, out or dtype)
    assert found.dtype == (out or dtype)
    assert (found.data_ptr() == base.data_ptr()) == (found.dtype == dtype)
    close(found, exact, dtype)


@types
@shapes
@dropouts
@pytest.mark.parametrize("splits", [1, 3])
def test_outer(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float, splits: int) -> None:
    x, _, u = (tensor.repeat(5, 1) if len(tensor) == rows else tensor for tensor in operands(rows, width, rank, dtype))
    totals = torch.randn(splits, rank, width, device=DEVICE)
    made = kernels()
    drop = made.drop(x, probability, 2) if probability else None
    exact = totals.double().sum(0) + u.double().T @ dropped(x, drop, probability)
    made.outer(totals, u, x, drop)
    close(totals.sum(0), exact, dtype)


@shapes
def test_collecting(rows: int, width: int, rank: int) -> None:
    """Against the plain way, on widths that no block divides."""
    from dora_cli.methods.dora.kernels import TorchKernels

    generator = torch.Generator().manual_seed(width)
    width *= 9
    totals, B_t, c, grad_B_t, grad_c = (
        torch.randn(*shape, generator=generator).to(DEVICE) for shape in ((3, rows, width), (rows, width), (rows,), (rows, width), (rows,))
    )
    made = kernels()
    expected = grad_B_t + totals.sum(0)
    one, gradient = totals.clone(), grad_B_t.clone()
    made.collect(one, gradient)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    assert not one.any()
    wanted = grad_B_t.double(), grad_c.double()
    TorchKernels(torch.device(DEVICE)).collect_gated(totals.double().sum(0, keepdim=True), B_t.double(), c.double(), *wanted, 0.7)
    made.collect_gated(totals, B_t, c, grad_B_t, grad_c, 0.7)
    torch.testing.assert_close(grad_B_t, wanted[0].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_c, wanted[1].float(), rtol=1e-4, atol=1e-3)
    assert not totals.any()


def test_every_projection_call_and_pass_has_a_mask_of_its_own() -> None:
    made = kernels()
    x = torch.ones(64, 64, device=DEVICE)
    seen = []
    for _ in range(2):
        made.begin()
        seen += [made.down(x, torch.eye(64, device=DEVICE), made.drop(x, 0.5, index)) for index in (0, 1, 1)]
    for index, one in enumerate(seen):
        assert {round(value, 4) for value in one.unique().tolist()} == {0.0, 2.0}
        for two in seen[:index]:
            assert abs(float((one == two).float().mean()) - 0.5) < 6 * 0.5 / 64


def test_no_dropout_below_the_resolution() -> None:
    assert kernels().drop(torch.ones(2, 2), 1e-12, 0) is None


@pytest.mark.parametrize(("rows", "width"), [(36, 70), (2, 2050), (40, 2)])
def test_variance_gradient(rows: int, width: int) -> None:
    """Against the same function in float64."""
    pytest.importorskip("triton")
    from dora_cli.methods.dora import importance, triton_importance

    generator = torch.Generator().manual_seed(rows)
    factor, gradient = (torch.randn(rows, width, generator=generator).to(DEVICE) for _ in range(2))
    wanted = gradient.double()
    variance = importance.add_variance_gradient(wanted, factor.double(), 0.3)
    torch.testing.assert_close(triton_importance.add_variance_gradient(gradient, factor, 0.3), variance.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, wanted.float(), rtol=1e-5, atol=1e-6)
