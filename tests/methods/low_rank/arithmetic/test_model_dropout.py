"""The base model's own dropouts within a lean pass on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dora_cli.methods import Dora
from dora_cli.methods.low_rank.arithmetic.dropout import ModelDropouts, cut, scale
from tests.methods.small import new_dora, sites

P = 0.3
SCALE = scale(cut(P, 16), 16)


class Block(nn.Module):
    """Two adapted maps with a dropout after each; `twice` computes the pass again in the backward pass."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 24).double(), nn.Linear(24, 16).double()
        self.after_one, self.after_two = nn.Dropout(P), nn.Dropout(P)
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.twice:
            y: torch.Tensor = checkpoint(self.compute, x, use_reentrant=False)
            return y
        return self.compute(x)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return self.after_two(self.two(self.after_one(self.one(x)).tanh()))


def attached(*, twice: bool = False, dropout: float = 0.0) -> tuple[Block, Dora]:
    torch.manual_seed(0)
    model, dora = Block(twice=twice), new_dora(rank=2, dropout=dropout)
    dora.attach(model, sites({"one": model.one, "two": model.two}))
    for parameter in dora.parameters():
        nn.init.normal_(parameter)
    return model.train(), dora


def test_kept_values_are_scaled_and_the_rest_is_zero_forward_and_backward() -> None:
    x = torch.randn(64, 200, dtype=torch.float64, requires_grad=True)
    dropouts = ModelDropouts(model := nn.Sequential(nn.Dropout(P)))
    dropouts.begin()
    y = model(x)
    weights = torch.randn_like(y).T.contiguous().T  # not contiguous, as gradients may come
    (y * weights).sum().backward()
    kept = y != 0
    assert abs(float(kept.double().mean()) - (1 - P)) < 6 * (P * (1 - P) / kept.numel()) ** 0.5
    torch.testing.assert_close(y, torch.where(kept, SCALE * x, 0.0), rtol=1e-15, atol=0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(kept, SCALE * weights, 0.0), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_stays(dtype: torch.dtype) -> None:
    dropouts = ModelDropouts(model := nn.Dropout(P))
    dropouts.begin()
    assert model(torch.ones(8, 8, dtype=dtype)).dtype == dtype


def test_every_call_draws_anew_and_torchs_generator_decides() -> None:
    dropouts = ModelDropouts(model := nn.Dropout(P))
    dropouts.begin()
    x, state = torch.ones(32, 32), torch.get_rng_state()
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(model(x), first)


@pytest.mark.parametrize(
    ("module", "training"),
    [(nn.Dropout(0.0), True), (nn.Dropout(1.0), True), (nn.Dropout(P), False), (nn.Dropout(P, inplace=True), True)],
)
def test_whatever_is_no_plain_dropout_is_left_to_pytorch(
    module: nn.Dropout, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora_cli.methods.low_rank.arithmetic.dropout.draw_mask", None)
    module.train(training)
    dropouts = ModelDropouts(module)
    state = torch.get_rng_state()
    expected = module(torch.ones(16, 16))
    dropouts.begin()
    torch.set_rng_state(state)
    assert torch.equal(module(torch.ones(16, 16)), expected)


def replaced(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("fails", [False, True])
def test_modules_are_as_they_were_after_a_pass(fails: bool) -> None:
    model, dora = attached()
    own: Callable[[torch.Tensor], torch.Tensor] = partial(torch.mul, 2.0)
    model.after_two.forward = own  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError) if fails else torch.enable_grad(), dora.training_pass():
        assert replaced(model) == ["after_one", "after_two"]
        assert model.after_two.forward is own, "somebody else's"
        model(torch.ones(3, 16, dtype=torch.float64)).sum().backward()
        if fails:
            raise ZeroDivisionError
    assert replaced(model) == ["after_two"]


def test_what_somebody_puts_there_between_passes_or_within_stays() -> None:
    model, dora = attached()
    own: Callable[[torch.Tensor], torch.Tensor] = partial(torch.mul, 2.0)
    with dora.training_pass():
        model(torch.ones(3, 16, dtype=torch.float64)).sum().backward()
        model.after_one.forward = own  # type: ignore[method-assign, assignment]
    model.after_two.forward = own  # type: ignore[method-assign, assignment]
    for _ in range(2):
        with dora.training_pass():
            model(torch.ones(3, 16, dtype=torch.float64)).sum().backward()
            assert (model.after_one.forward, model.after_two.forward) == (own, own)
    assert replaced(model) == ["after_one", "after_two"]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_pass_computed_again_drops_the_same(dropout: float) -> None:
    """A checkpoint within the model, of which `training_pass` knows nothing: it restores torch's generator."""
    x = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for twice in (False, True):
        model, dora = attached(twice=twice, dropout=dropout)
        inputs = x.clone().requires_grad_()
        torch.manual_seed(3)
        with dora.training_pass():
            model(inputs).square().sum().backward()
        found.append([inputs.grad, *(parameter.grad for parameter in dora.parameters())])
    for one, two in zip(*found, strict=True):
        assert one is not None
        assert one.any()
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
