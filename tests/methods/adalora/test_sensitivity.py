"""Importance entry by entry and the penalty's closed form against brute force; the Triton kernel too."""

from __future__ import annotations

import os

import pytest
import torch

from dora_cli.methods.adalora import sensitivity
from dora_cli.methods.adalora.orthogonality import Stack

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
triton = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU or the interpreter")


def tensors(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight, gradient, smoothed, spread = (torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(4))
    return [weight, gradient, smoothed.abs(), spread.abs()]


def plainly(values: list[torch.Tensor], beta1: float, beta2: float) -> tuple[torch.Tensor, torch.Tensor]:
    weight, gradient, smoothed, spread = (value.double() for value in values)
    now = (weight * gradient).abs()
    smoothed = beta1 * smoothed + (1 - beta1) * now
    return smoothed, beta2 * spread + (1 - beta2) * (now - smoothed).abs()


@pytest.mark.parametrize("shape", [(7,), (3, 50), (5, 30_000)], ids=str)  # the last takes several pieces
@pytest.mark.parametrize("flag", [None, False])
def test_update(shape: tuple[int, ...], flag: bool | None) -> None:
    values = tensors(*shape)
    expected = plainly(values, 0.8, 0.3)
    sensitivity.update(*values, 0.8, 0.3, None if flag is None else torch.tensor(flag))
    for found, wanted in zip(values[2:], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-15)


def test_a_skipped_step_changes_nothing_whatever_the_gradient_is() -> None:
    values = tensors(4, 9)
    values[1].fill_(float("nan"))
    before = [value.clone() for value in values[2:]]
    sensitivity.update(*values, 0.8, 0.3, torch.tensor(True))
    assert all(torch.equal(found, was) for found, was in zip(values[2:], before, strict=True))


@triton
@pytest.mark.parametrize("shape", [(7,), (3, 50), (5, 2_000)], ids=str)
@pytest.mark.parametrize("flag", [None, False, True])
def test_triton(shape: tuple[int, ...], flag: bool | None) -> None:
    pytest.importorskip("triton")
    from dora_cli.methods.adalora import triton_sensitivity

    values = [value.to(DEVICE) for value in tensors(*shape, dtype=torch.float32)]
    if flag:
        values[1].fill_(float("nan"))
    expected = values[2:] if flag else plainly(values, 0.8, 0.3)
    expected = [value.clone().float() for value in expected]
    triton_sensitivity.update(*values, 0.8, 0.3, None if flag is None else torch.tensor(flag, device=DEVICE))
    for found, wanted in zip(values[2:], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0 if flag else 1e-5, atol=0 if flag else 1e-6)


def test_which_update_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from dora_cli.methods.adalora import triton_sensitivity

    monkeypatch.setattr(sensitivity, "takes_triton", lambda device: device.type == "cuda")
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert sensitivity.update_for(cpu, torch.float32) is sensitivity.update
    assert sensitivity.update_for(cuda, torch.float64) is sensitivity.update
    assert sensitivity.update_for(cuda, torch.float32) is triton_sensitivity.update


# The penalty ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True], ids=["published", "paper"])
@pytest.mark.parametrize("ranks", [[3, 3, 3], [2], [1, 4, 2, 4]], ids=str)
def test_the_penalty_and_its_gradient_are_those_of_autograd(ranks: list[int], squared: bool) -> None:
    generator = torch.Generator().manual_seed(len(ranks))
    rows = torch.randn(sum(ranks), 9, generator=generator, dtype=torch.float64) * 0.4
    leaf = rows.clone().requires_grad_()
    grams = [part @ part.T - torch.eye(len(part)) for part in leaf.split(ranks)]
    value = 0.3 * sum((gram**2).sum() if squared else (gram**2).sum().sqrt() for gram in grams)
    (expected,) = torch.autograd.grad(value, [leaf])
    before = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    gradient = before.clone()
    found = Stack(ranks, rows).add_gradient(gradient, rows, 0.3, squared=squared)
    torch.testing.assert_close(found, value.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, before + expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("squared", [False, True], ids=["published", "paper"])
def test_orthonormal_vectors_have_no_gradient(squared: bool) -> None:
    rows = torch.eye(4, 7, dtype=torch.float64)  # the norm is 0, where a quotient would be 0 / 0
    gradient = torch.zeros_like(rows)
    assert float(Stack([2, 2], rows).add_gradient(gradient, rows, 0.3, squared=squared)) == 0
    assert not gradient.any()
