"""LoRA-Pro's gradients and the Riemannian ones while ranks are chosen, by explicit matrices of every projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dora_cli.library.own_loop import shrink
from dora_cli.methods.dora import AdaptedProjection
from dora_cli.methods.low_rank.gradients.adjusted import ADJUSTMENTS
from tests.methods.lora_pro.test_literal_reference import adjusted
from tests.methods.small import SmallEncoder, Training, classification, new_dora

STEPS = 20  # events at steps 5, 7 and 9, of which the last is the freeze
SETTINGS: dict[str, Any] = {
    "rank": 2,
    "start_rank": 4,
    "start": "lora",
    "gates": "fixed",
    "events": 3,
    "dropout": 0.0,
    "dem_weight": 0.0,
    "score": "taylor",
}
rules = pytest.mark.parametrize("gradients", ["pro", "riemannian"])


def training_of(**settings: Any) -> Training:
    torch.manual_seed(0)
    return Training(SmallEncoder(blocks=4).double(), new_dora(**{**SETTINGS, **settings}), total_steps=STEPS)


def explicit(gradients: str, layer: AdaptedProjection, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What is to become of a layer's gradients, which `adjust_gradients` has not seen yet."""
    A, B, hA, hB = layer.A.detach(), layer.B.detach(), layer.A.grad, layer.B.grad
    assert hA is not None
    assert hB is not None
    if gradients == "pro":
        return adjusted(layer.scaling, A, B, hA, hB, damping)
    damped = damping * torch.eye(len(A), dtype=A.dtype)
    return torch.linalg.solve(B.T @ B + damped, hA), torch.linalg.solve(A @ A.T + damped, hB.T).T


@rules
@pytest.mark.parametrize("rotate", ["none", "weight"])
def test_every_step_s_gradients_are_those_of_the_formulas(gradients: str, rotate: str) -> None:
    """From the first step, where ranks are equal, over events, after which they differ, to the end."""
    training = training_of(gradients=gradients, rotate=rotate, score="published" if rotate == "weight" else "taylor")
    dora, loss, mixed = training.dora, classification(), 0
    usual = ADJUSTMENTS[gradients]
    assert usual is not None
    for step in range(1, STEPS + 1):
        training.optimizer.zero_grad()
        loss(training.model).backward()
        layers = dora._adapters.layers
        expected = {name: explicit(gradients, layer, usual.damping) for name, layer in layers.items()}
        plain = {name: layer.B.grad.clone() for name, layer in layers.items() if layer.B.grad is not None}
        assert dora.adjust_gradients() is None
        for name, layer in layers.items():
            for found, wanted in zip((layer.A.grad, layer.B.grad), expected[name], strict=True):
                assert found is not None
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
            assert not torch.allclose(expected[name][1], plain[name], rtol=0.1)
        training.optimizer.step()
        training.optimizer.zero_grad()
        report = dora.after_step(step)
        shrink(training.optimizer, report)
        mixed += any(len({layer.rank for layer in group.layers}) > 1 for group in dora._adapters.groups())
    assert mixed, "ranks within a shape have differed"


@rules
def test_scores_are_of_the_gradients_before(gradients: str) -> None:
    training = training_of(gradients=gradients, ema_beta=0.0)
    loss, layers = classification(), training.dora._adapters.layers
    for step in (1, 2, 3):
        training.optimizer.zero_grad()
        loss(training.model).backward()
        first_order = [(layer.B.detach() * layer.B.grad).sum(0) for layer in layers.values()]
        training.dora.adjust_gradients()
        training.optimizer.step()
        training.dora.after_step(step)
        torch.testing.assert_close(training.dora._selection.scores, torch.stack(first_order), rtol=1e-9, atol=1e-15)
    assert training.dora._selection.scores.any()


@rules
def test_the_regulariser_s_gradients_are_added_as_they_are(gradients: str) -> None:
    """They are no part of a gradient of the whole weight, to which the factors' own could be fitted."""
    found = []
    for weight in (0.0, 0.5):
        training = training_of(gradients=gradients, dem_weight=weight)
        classification()(training.model).backward()
        training.dora.adjust_gradients()
        layers = training.dora._adapters.layers.values()
        found.append([factor.grad.clone() for layer in layers for factor in (layer.A, layer.B)])
    plain = training_of(dem_weight=0.5), training_of()
    for training in plain:
        classification()(training.model).backward()
        training.dora.adjust_gradients()
    both = [[f.grad for layer in t.dora._adapters.layers.values() for f in (layer.A, layer.B)] for t in plain]
    for without, with_it, one, other in zip(*found, *both, strict=True):
        torch.testing.assert_close(with_it - without, one - other, rtol=1e-9, atol=1e-15)
    assert any((with_it - without).any() for without, with_it in zip(*found, strict=True))
