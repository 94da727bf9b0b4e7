"""BitFit: which tensors are biases, how many there are, and models that have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from dora_cli.errors import ModelError
from dora_cli.methods import BitFit
from tests.methods.small import tiny_roberta
from tests.methods.test_base_tensors import attached

D, FFN = 768, 3072
BLOCK = 4 * D + FFN + D + 2 * D
"""Query, key, value and output; the FFN's two maps; two LayerNorms."""


def on_meta(model_class: Any, config: Any) -> Any:
    with torch.device("meta"):
        return model_class(config)


def names(model: nn.Module) -> set[str]:
    return set(attached("bitfit", model).state_dict())


def test_roberta_base_has_the_published_count() -> None:
    """12 blocks and the LayerNorm of the embeddings; no pooler, and the classifier is the head's."""
    model = on_meta(RobertaForSequenceClassification, RobertaConfig())
    method = attached("bitfit", model)
    assert method.size().stored == 12 * BLOCK + D == 102_144
    assert {name.rpartition(".")[2] for name in method.state_dict()} == {"bias"}
    assert [p for p in model.parameters() if p.requires_grad] == [
        p for name, p in model.named_parameters() if name.endswith(".bias") or name.startswith("classifier")
    ]


def test_a_pretrained_pooler_is_of_the_base() -> None:
    model = on_meta(BertForSequenceClassification, BertConfig())
    assert attached("bitfit", model).size().stored == 12 * BLOCK + D + D
    assert "bert.pooler.dense.bias" in names(model)


def test_a_bias_is_one_by_its_own_name() -> None:
    """DeBERTa's first version keeps those of query and value beside a fused map that has none."""
    config = DebertaConfig(num_hidden_layers=1, pos_att_type=["c2p", "p2c"], relative_attention=True)
    found = names(on_meta(DebertaForSequenceClassification, config))
    assert {f"deberta.encoder.layer.0.attention.self.{part}_bias" for part in "qv"} <= found
    assert names(on_meta(Qwen2ForCausalLM, Qwen2Config(num_hidden_layers=1))) == {
        f"model.layers.0.self_attn.{part}_proj.bias" for part in "qkv"
    }


def test_what_is_frozen_is_cast_once_for_a_pass_in_half() -> None:
    model: Any = tiny_roberta(dtype=torch.float32)
    method = attached("bitfit", model)
    dense = model.roberta.encoder.layer[0].output.dense
    weight, bias = dense.weight, dense.bias
    held = []
    for _ in range(2):
        with method.training_pass(torch.bfloat16):
            held.append(dense.weight)
            assert dense.weight.dtype == torch.bfloat16
            assert dense.bias is bias
    assert held[0] is held[1]
    with method.training_pass():
        assert dense.weight is weight


@pytest.mark.parametrize(
    ("model_class", "config"),
    [(LlamaForCausalLM, LlamaConfig(num_hidden_layers=1)), (T5ForConditionalGeneration, T5Config(num_layers=1))],
)
def test_a_model_without_biases_is_refused(model_class: Any, config: Any) -> None:
    """T5's ``relative_attention_bias.weight`` is an embedding."""
    with pytest.raises(
        ModelError,
        match=rf"^model\.name: {model_class.__name__} has no bias outside its head, and method\.name bitfit trains "
        r"nothing else; choose a model with biases \(RoBERTa, .*\), or another method, such as lora$",
    ):
        BitFit().check(on_meta(model_class, config), [])
