"""Copies of frozen maps in autocast's precision: the same numbers, and no trace of them afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_cli.methods.frozen import FrozenMaps
from tests.methods.small import tiny_gpt2, tiny_roberta

BATCH = {"input_ids": torch.arange(3, 15).view(2, 6)}


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """The loss of one pass under autocast in bfloat16, then its gradients."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**BATCH).logits.float().square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [tiny_roberta, tiny_gpt2])
def test_a_pass_computes_the_same_to_the_bit(make: object) -> None:
    """While biases, norms and embeddings train; also for GPT-2's maps, which store their weights transposed."""
    model = make(dtype=torch.float32).eval()  # type: ignore[operator]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.ndim == 1 or "emb" in name)
    before = dict(model.named_parameters())
    expected = gradients(model)
    frozen = FrozenMaps(model)
    for _ in range(2):  # the second finds the copies made
        with frozen.cast(torch.bfloat16):
            held = [p for p in model.parameters() if p.dtype == torch.bfloat16]
            found = gradients(model)
        assert len(held) > 8
        assert all(map(torch.equal, found, expected))
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_copies_follow_the_weights_and_are_made_once() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    frozen = FrozenMaps(model)

    def held() -> torch.Tensor:
        with frozen.cast(torch.bfloat16):
            return model[0].weight

    first = held()
    assert held() is first
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(held(), model[0].weight.bfloat16())
    frozen.release()
    assert held() is not first
    with frozen.cast(None):
        assert model[0].weight.dtype == torch.float32


def test_a_pass_that_fails_puts_the_weights_back() -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(ZeroDivisionError), FrozenMaps(model).cast(torch.bfloat16):
        raise ZeroDivisionError
    assert model.weight.dtype == torch.float32
