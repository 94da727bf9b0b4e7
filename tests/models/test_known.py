"""What `dora models` says of a family is what is found in its classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from dora_cli.models import builtin_names, find_projections, model_catalogue
from dora_cli.models.family import is_decoder_only, is_encoder_decoder
from dora_cli.models.known import FAMILIES, NEEDS, Family, known_kind
from tests.models.conftest import SMALL

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BART = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 50,
}  # fmt: skip
_T5 = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
# The small sizes of those that call them otherwise than `SMALL`, or need more.
SIZES: dict[str, dict[str, Any]] = {
    "albert": SMALL,
    "bart": _BART,
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50},
    # as version 3 is published
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50},
    "gemma": {**SMALL, "num_key_value_heads": 2, "head_dim": 4},
    "gemma2": {**SMALL, "num_key_value_heads": 2, "head_dim": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50},
    "mbart": _BART,
    "mt5": {**_T5, "feed_forward_proj": "gated-gelu"},
    "opt": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 32,
        "vocab_size": 50,
        "word_embed_proj_dim": 16,
    },
    "t5": _T5,
    "umt5": {**_T5, "feed_forward_proj": "gated-gelu"},
}


def models(family: Family, model_type: str) -> list[nn.Module]:
    """The classifier, and the generator of a family that generates, without weights."""
    sizes = SIZES.get(
        model_type,
        SMALL | ({"num_key_value_heads": 2} if family.kind == "decoder" and model_type != "gpt_neox" else {}),
    )
    if model_type == "t5" and "wi_0" in family.ffn:
        sizes = sizes | {"feed_forward_proj": "gated-gelu"}
    config = tf.AutoConfig.for_model(model_type, **sizes, **_TOKENS)
    kind = "encoder-decoder" if is_encoder_decoder(config) else "decoder" if is_decoder_only(config) else "encoder"
    assert kind == family.kind
    autos = {"encoder": [], "decoder": [tf.AutoModelForCausalLM], "encoder-decoder": [tf.AutoModelForSeq2SeqLM]}[kind]
    with torch.device("meta"):
        return [auto.from_config(config) for auto in (tf.AutoModelForSequenceClassification, *autos)]


@pytest.mark.parametrize(
    ("family", "model_type"), [(family, name) for family in FAMILIES for name in family.model_types]
)
def test_its_projections_are_those_listed(family: Family, model_type: str) -> None:
    for model in models(family, model_type):
        for group, listed in (("attention", family.attention), ("ffn", family.ffn)):
            found = {p.projection for p in find_projections(model, [group])}
            assert {path for path in listed if any(_ends(name, path) for name in found)} == set(listed)
            assert {name for name in found if any(_ends(name, path) for path in listed)} == found


def _ends(name: str, path: str) -> bool:
    return name == path or name.endswith(f".{path}")


def test_examples_have_a_kind() -> None:
    assert known_kind("FacebookAI/roberta-base") == "encoder"
    assert known_kind("HuggingFaceTB/SmolLM2-135M") == "decoder"
    assert known_kind("facebook/bart-base") == "encoder-decoder"
    assert known_kind("nobody/nothing") is None
    examples = [name for family in FAMILIES for name in family.examples]
    assert len(set(examples)) == len(examples)


def test_the_catalogue() -> None:
    found = model_catalogue()
    assert [model["name"] for model in found["builtin"]] == builtin_names()
    # The numbers of their own READMEs.
    assert [(model["kind"], model["model_type"], model["parameters"]) for model in found["builtin"]] == [
        ("decoder", "llama", 467_808),
        ("encoder", "roberta", 372_048),
        ("encoder-decoder", "bart", 473_984),
    ]
    assert all(model["parameters"] * 4 < model["bytes"] < 2_000_000 for model in found["builtin"])
    assert len(found["families"]) == len(FAMILIES)
    assert found["needs"] == list(NEEDS)
