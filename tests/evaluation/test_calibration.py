"""What a method has measured, against sums over single examples, which hold no padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.data import EncodedSplit
from dora_cli.data.ragged import Ragged
from dora_cli.evaluation.calibration import Calibrator
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods.base import Calibration
from dora_cli.methods.linear import weight_of
from dora_cli.models import find_projections
from tests.methods.small import new_lora, tiny_gpt2, tiny_roberta

TEXTS = [[5, 6, 7], [8, 9], [5, 9, 11, 12, 6], [7, 8, 10]]
LABELS = [0, 2, 1, 1]
MODELS = {"linear maps": tiny_roberta, "maps stored transposed": tiny_gpt2}


def split(rows: list[int]) -> EncodedSplit:
    texts = [TEXTS[row] for row in rows]
    tokens = Ragged.of(np.concatenate(texts).astype(np.int32), [len(text) for text in texts])
    return EncodedSplit(tokens, None, np.array([LABELS[row] for row in rows]), max_length=8, pad_token_id=0)


def loss(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(outputs.logits, batch["labels"], reduction="none")


def smoothed(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(outputs.logits, batch["labels"], reduction="none", label_smoothing=0.2)


def calibrator(
    model: nn.Module, *, train: list[int], held_out: list[int] | None = None, precision: str = "fp32"
) -> Calibrator:
    """One over a model with LoRA in its place, whose factors are not zero."""
    method, sites = new_lora(rank=2, dropout=0.5), find_projections(model)
    model.requires_grad_(False)
    method.attach(model, sites)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.normal_(std=0.1)
    held = None if held_out is None else split(held_out)
    accelerator = make_accelerator(torch.device("cpu"), precision)
    return Calibrator(model.train(), sites, loss, smoothed, split(train), held, 2, accelerator, seed=1)


def one_by_one(model: nn.Module, rows: list[int]) -> list[tuple[Any, dict[str, torch.Tensor]]]:
    """What the model gives for each example alone, and its batch."""
    found = []
    for row in rows:
        ids = torch.tensor([TEXTS[row]])
        outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        found.append((outputs, {"labels": torch.tensor([LABELS[row]])}))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_second_moments_are_those_of_real_tokens(name: str) -> None:
    model = MODELS[name]()
    measure = calibrator(model, train=[0, 1, 2, 3])
    found = measure(Calibration("inputs", examples=4)).inputs
    assert model.training
    read: dict[str, list[torch.Tensor]] = {site.name: [] for site in measure.sites}
    for site in measure.sites:
        model.get_submodule(site.name).register_forward_pre_hook(
            lambda _, inputs, name=site.name: read[name].append(inputs[0].detach().flatten(0, -2))
        )
    one_by_one(model.eval(), [0, 1, 2, 3])
    for site in measure.sites:
        x = torch.cat(read[site.name])
        assert len(x) == sum(map(len, TEXTS))
        torch.testing.assert_close(found[site.name].double(), x.T @ x / len(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_mean_loss_for_the_whole_weight(name: str) -> None:
    model = MODELS[name]()
    measure = calibrator(model, train=[0, 1, 2, 3])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = measure(Calibration("gradients", examples=4)).gradients
    assert [parameter for parameter in model.parameters() if parameter.requires_grad] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    weights = [site.module.weight.requires_grad_() for site in measure.sites]
    losses = [smoothed(outputs, batch) for outputs, batch in one_by_one(model.eval(), [0, 1, 2, 3])]
    wanted = torch.autograd.grad(torch.cat(losses).mean(), weights)
    for site, gradient in zip(measure.sites, wanted, strict=True):
        assert found[site.name].shape == site.shape
        laid_out = gradient if weight_of(site.module) is site.module.weight else gradient.T
        torch.testing.assert_close(found[site.name].double(), laid_out, rtol=1e-4, atol=1e-6)


def test_the_held_out_loss_is_the_mean_over_its_examples_alone() -> None:
    model = tiny_roberta()
    measure = calibrator(model, train=[0], held_out=[1, 2, 3])
    found = measure(Calibration("loss")).loss
    with torch.no_grad():
        losses = [loss(outputs, batch) for outputs, batch in one_by_one(model.eval(), [1, 2, 3])]
    assert found == pytest.approx(float(torch.cat(losses).mean()), rel=1e-9)


def test_the_held_out_loss_is_measured_finer_than_bf16_where_the_weights_are() -> None:
    """Two such losses decide which ranks a run has; they may differ by less than bf16 tells."""
    fine, trained_in_bf16 = (
        calibrator(tiny_roberta().float(), train=[0], held_out=[1, 2, 3], precision=precision)(Calibration("loss")).loss
        for precision in ("fp32", "bf16")
    )
    assert trained_in_bf16 == fine


def test_as_many_examples_as_are_asked_for_are_drawn_whatever_the_size_of_a_batch() -> None:
    one = calibrator(tiny_roberta(), train=[0, 1, 2, 3])
    two = Calibrator(one.model, one.sites, loss, smoothed, one.train, None, 3, one.accelerator, seed=1)
    name = one.sites[0].name
    asked = Calibration("inputs", examples=3)
    torch.testing.assert_close(one(asked).inputs[name], two(asked).inputs[name])
    assert not torch.allclose(one(asked).inputs[name], one(Calibration("inputs", examples=4)).inputs[name])
