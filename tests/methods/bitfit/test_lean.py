"""The training pass of BitFit against autograd's own way."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dora_cli.methods import BitFit
from tests.methods.small import tiny_gpt2, tiny_roberta

BATCHES = [torch.arange(3, 15).view(2, 6), torch.arange(12, 24).view(3, 4)]
MODELS = pytest.mark.parametrize("make", [tiny_roberta, tiny_gpt2])
Make = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def _as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BitFit, "_lean_on", ("cpu", "cuda"))


def attached(make: Make, dtype: torch.dtype) -> tuple[nn.Module, BitFit]:
    model, method = make(dtype=dtype).eval(), BitFit()
    model.requires_grad_(False)
    method.attach(model, [])
    return model, method


def gradients(model: nn.Module, method: BitFit, *, half: bool, lean: bool) -> list[torch.Tensor]:
    """From two passes, of batches of two sizes."""
    model.zero_grad()
    for ids in BATCHES:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if lean:
                with method.training_pass(torch.bfloat16 if half else None):
                    model(input_ids=ids).logits.float().square().mean().backward()
            else:
                model(input_ids=ids).logits.float().square().mean().backward()
    return [parameter.grad for parameter in method.parameters() if parameter.grad is not None]


@MODELS
def test_the_same_gradients_in_double_precision(make: Make) -> None:
    model, method = attached(make, torch.float64)
    names = dict(model.named_parameters()).keys()
    expected = gradients(model, method, half=False, lean=False)
    found = gradients(model, method, half=False, lean=True)
    assert len(found) == len(method.parameters())
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
    assert dict(model.named_parameters()).keys() == names


@MODELS
def test_sums_in_single_precision_of_what_autocast_computes(make: Make) -> None:
    """Autograd rounds each sum to bfloat16, here they are fp32: nearer to the truth."""
    model, method = attached(make, torch.float32)
    expected = gradients(model, method, half=True, lean=False)
    found = gradients(model, method, half=True, lean=True)
    for one, two in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-2 * float(two.abs().max()))


def test_a_map_that_is_used_twice() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model.append(model[0])
    model.double().requires_grad_(False)
    method, x = BitFit(), torch.randn(5, 4, dtype=torch.float64)
    method.attach(model, [])
    model(x).square().sum().backward()
    expected = model[0].bias.grad.clone()
    model.zero_grad()
    with method.training_pass():
        assert model[0] is model[2]
        model(x).square().sum().backward()
    torch.testing.assert_close(model[0].bias.grad, expected)


def test_two_maps_that_share_a_bias() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].bias = model[0].bias
    model.double().requires_grad_(False)
    method, x = BitFit(), torch.randn(5, 4, dtype=torch.float64)
    method.attach(model, [])
    model(x).square().sum().backward()
    expected = model[0].bias.grad.clone()
    model.zero_grad()
    with method.training_pass():
        model(x).square().sum().backward()
    torch.testing.assert_close(model[0].bias.grad, expected)


def test_backward_after_the_pass_is_refused() -> None:
    model, method = attached(tiny_roberta, torch.float64)
    with method.training_pass():
        loss = model(input_ids=BATCHES[0]).logits.sum()
    with pytest.raises(RuntimeError, match="training_pass"):
        loss.backward()


def test_a_pass_follows_a_model_that_changes_its_type() -> None:
    model, method = attached(tiny_roberta, torch.float32)
    gradients(model, method, half=False, lean=True)
    found = gradients(model.double(), method, half=False, lean=True)
    assert {gradient.dtype for gradient in found} == {torch.float64}
    expected = gradients(model, method, half=False, lean=False)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_what_a_failed_pass_has_summed_is_forgotten() -> None:
    model, method = attached(tiny_roberta, torch.float64)
    expected = [gradient.clone() for gradient in gradients(model, method, half=False, lean=True)]

    def fail() -> None:
        with method.training_pass():
            model(input_ids=BATCHES[0]).logits.square().mean().backward()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for one, two in zip(gradients(model, method, half=False, lean=True), expected, strict=True):
        assert torch.equal(one, two)


def test_a_copy_trains_on_its_own() -> None:
    model, method = attached(tiny_roberta, torch.float64)
    expected = gradients(model, method, half=False, lean=True)
    other_model, other = copy.deepcopy((model, method))
    model.zero_grad()
    for one, two in zip(gradients(other_model, other, half=False, lean=True), expected, strict=True):
        assert torch.equal(one, two)
    assert all(parameter.grad is None for parameter in method.parameters())
