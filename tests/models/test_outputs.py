"""What a model gives, taken apart and put together again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from dora_cli.models.outputs import each_tensor, tensors_in


@pytest.mark.parametrize("kind", [SequenceClassifierOutputWithPast, SimpleNamespace, dict])
def test_every_tensor_of_an_output_but_its_cache(kind: Any) -> None:
    one, two, three = (torch.full((2,), float(number)) for number in (1, 2, 3))
    outputs = kind(logits=one, hidden_states=(two, three), past_key_values=((torch.ones(9),),), attentions=None)
    assert [tensor.tolist() for tensor in tensors_in(outputs)] == [[1, 1], [2, 2], [3, 3]]
    doubled = each_tensor(outputs, lambda tensor: 2 * tensor)
    found: dict[str, Any] = doubled if kind is dict else vars(doubled)
    assert found["logits"].tolist() == [2, 2]
    assert [tensor.tolist() for tensor in found["hidden_states"]] == [[4, 4], [6, 6]]
    assert all(found.get(name) is None for name in ("attentions", "cache", "past_key_values"))
    assert isinstance(doubled, kind)
