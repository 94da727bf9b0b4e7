"""What is not known to be the same is left to `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

from dora_cli.evaluation.search import suitable as module
from dora_cli.evaluation.search.suitable import suitable
from tests.evaluation.search.families import LLAMAS, built


def test_the_known_ones() -> None:
    assert suitable(built("llama"))
    assert suitable(built("mistral"))
    assert suitable(built("bart", attention="eager"))


@pytest.mark.parametrize(
    "config",
    [
        tf.MistralConfig(sliding_window=8, **LLAMAS),
        tf.Qwen2Config(use_sliding_window=True, sliding_window=8, max_window_layers=1, **LLAMAS),
        tf.LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, **LLAMAS),
        tf.Phi3Config(**LLAMAS),
    ],
    ids=["window", "windows in some layers", "positions by the longest", "another family"],
)
def test_others_are_not(config: Any) -> None:
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config)
    assert not suitable(model, {"meta"})


def test_a_device_on_which_it_was_not_tried() -> None:
    model = built("llama", device="meta")
    assert suitable(model, {"meta"})
    assert not suitable(model)


def test_another_attention_and_an_older_library(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("llama")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_SINCE", {"transformers": (999, 0)})
        assert not suitable(model)
    model.config._attn_implementation = "flex_attention"
    assert not suitable(model)
    model.config._attn_implementation = "sdpa"
    monkeypatch.setattr(type(model), "__module__", "somebody.elses")
    assert not suitable(model)
