"""Full fine-tuning: which tensors train, and those that no gradient reaches."""

from __future__ import annotations

from typing import Any

import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from tests.methods.patchy import Patchy, batch, started
from tests.methods.test_base_tensors import attached


def test_everything_but_the_head_is_the_methods() -> None:
    with torch.device("meta"):
        model: Any = RobertaForSequenceClassification(RobertaConfig())
    method = attached("full", model)
    head = model.classifier.parameters()
    assert method.size().stored == sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in head)
    assert {id(p) for p in method.parameters()} == {id(p) for p in model.roberta.parameters()}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_no_gradient_reaches_stays_as_it_is_and_keeps_no_state() -> None:
    model, step = started()
    before = {name: parameter.detach().clone() for name, parameter in Patchy().named_parameters()}
    for number in range(1, 5):
        step(number, [batch(2)], 2, event=False)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not name.startswith("first"))
        assert (parameter in step.optimizer.state) == name.startswith("first")
    assert {key.partition(".")[0] for key in step.state_dict()[0]} == {"0", "3"}  # weight and bias of the first


def test_a_training_goes_on_to_the_bit_where_a_layer_is_reached_now_and_then() -> None:
    """After the second layer was reached once, its moments move it in every step; so they do after a resume."""
    rows = [2, 3, 2, 2, 3, 2]
    model, step = started()
    for number, count in enumerate(rows, start=1):
        step(number, [batch(count)], count, event=False)
    cut, first = started()
    for number, count in enumerate(rows[:3], start=1):
        first(number, [batch(count)], count, event=False)
    again, second = started()
    again.load_state_dict(cut.state_dict())
    second.load_state_dict(*first.state_dict())
    for number, count in enumerate(rows[3:], start=4):
        second(number, [batch(count)], count, event=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(model.pooler.weight, Patchy().pooler.weight)
