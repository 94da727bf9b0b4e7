"""The lean training pass, and its autograd function, against the layer's mathematics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.methods import Houlsby, Pfeiffer
from dora_cli.methods.base import Method
from dora_cli.methods.bottleneck.layer import Activation, Bottleneck
from dora_cli.methods.bottleneck.lean import Inserted
from dora_cli.models import find_projections
from tests.methods.small import tiny_gpt2, tiny_roberta


def adapted(
    kind: type[Houlsby | Pfeiffer], build: Callable[..., nn.Module], dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[nn.Module, Method]:
    """A model with adapters that do something."""
    model = build(dtype=dtype).requires_grad_(False)
    method = kind(**({"bottleneck": 5, "activation": "gelu", "start_std": 1e-3, "train_norms": False} | settings))
    sites = find_projections(model, ["ffn"] if kind is Pfeiffer else ["attention", "ffn"], method.takes)
    method.attach(model, sites)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.train(), method


def loss_of(model: nn.Module, seed: int = 2) -> torch.Tensor:
    ids = torch.randint(3, 40, (6, 9), generator=torch.Generator().manual_seed(seed))
    return nn.functional.cross_entropy(model(input_ids=ids).logits.float(), torch.arange(6) % 3)


def taken(method: Method) -> list[torch.Tensor]:
    found = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    for parameter in method.parameters():
        parameter.grad = None
    assert len(found) == len(method.parameters())
    return found


@pytest.mark.parametrize("kind", [Houlsby, Pfeiffer])
@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2])
def test_values_and_gradients_are_those_of_autograd(kind: Any, build: Any) -> None:
    """Over two passes, which add up."""
    model, method = adapted(kind, build, train_norms=True)
    plain = [loss_of(model, seed) for seed in (1, 2)]
    (plain[0] + plain[1]).backward()
    expected = taken(method)
    for seed, value in zip((1, 2), plain, strict=True):
        with method.training_pass():
            lean = loss_of(model, seed)
            lean.backward()
        torch.testing.assert_close(lean, value, rtol=1e-6, atol=0)  # the loss is taken in fp32
    for one, two in zip(taken(method), expected, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [Houlsby, Pfeiffer])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_under_autocast_they_are_those_of_autograd_up_to_its_rounding(kind: Any, base: torch.dtype) -> None:
    """To a few units of bf16's 2^-8 of the largest entry, as far as autograd's own are from the exact gradients."""
    model, method = adapted(kind, tiny_roberta, base)
    with torch.autocast("cpu", torch.bfloat16):
        plain = loss_of(model)
    plain.backward()
    expected = taken(method)
    with method.training_pass(torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            lean = loss_of(model)
        lean.backward()
    assert lean.dtype == plain.dtype
    torch.testing.assert_close(lean, plain, rtol=2e-2, atol=0)
    for one, two in zip(taken(method), expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - two).abs().max() < 4 * 2**-8 * max(two.abs().max() for two in expected)


@pytest.mark.parametrize("kind", [Houlsby, Pfeiffer])
def test_a_half_precision_base_without_autocast_is_adapted_in_fp32(kind: Any) -> None:
    """Norms that train likewise. The two ways round the sum to bf16 in another place, which the blocks after it see."""
    model, method = adapted(kind, tiny_roberta, torch.bfloat16, train_norms=True)
    model.classifier.float()
    model.classifier.register_forward_pre_hook(lambda module, inputs: inputs[0].float())
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}
    loss = loss_of(model)
    loss.backward()
    expected = taken(method)
    with method.training_pass():
        lean = loss_of(model)
        lean.backward()
    torch.testing.assert_close(lean, loss, rtol=1e-2, atol=0)
    for one, two in zip(taken(method), expected, strict=True):
        assert (one - two).abs().max() < 8 * 2**-8 * max(two.abs().max() for two in expected)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_function_has_the_layer_s_value_and_its_gradients_are_finite_differences(activation: Activation) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    layer = Bottleneck(nn.Identity(), drawn(3, 6), drawn(6, 3), activation)
    with torch.no_grad():
        layer.b_down.copy_(drawn(3))
        layer.b_up.copy_(drawn(6))
    y = drawn(2, 4, 6).requires_grad_()
    own = list(layer.tensors().values())
    torch.testing.assert_close(
        Inserted.apply(y, *own, activation, None).view(y.shape), layer(y), rtol=1e-12, atol=1e-12
    )
    assert torch.autograd.gradcheck(lambda *given: Inserted.apply(*given, activation, None), (y, *own))


def test_backward_after_its_pass_is_refused() -> None:
    model, method = adapted(Houlsby, tiny_roberta)
    with method.training_pass():
        loss = loss_of(model)
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()


def test_what_was_not_reached_keeps_its_gradient_after_an_error() -> None:
    model, method = adapted(Houlsby, tiny_roberta)
    with pytest.raises(ZeroDivisionError), method.training_pass():
        raise ZeroDivisionError
    assert all(module.lean is None for module in model.modules() if isinstance(module, Bottleneck))
    for parameter in method.parameters():
        parameter.grad = None
    loss_of(model).backward()
    expected = taken(method)
    with method.training_pass():
        loss_of(model).backward()
    for one, two in zip(taken(method), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_copy_trains_on_its_own() -> None:
    model, method = adapted(Pfeiffer, tiny_roberta)
    with method.training_pass():
        loss_of(model).backward()
    expected = taken(method)
    other_model, other = copy.deepcopy((model, method))
    with other.training_pass():
        loss_of(other_model).backward()
    assert all(parameter.grad is None for parameter in method.parameters())
    for one, two in zip(taken(other), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    model, method = adapted(Houlsby, tiny_roberta)
    with method.training_pass():
        loss_of(model).backward()
    expected = taken(method)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
    if reentrant:
        model.enable_input_require_grads()  # type: ignore[operator]
    with method.training_pass():
        loss_of(model).backward()
    for one, two in zip(taken(method), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
