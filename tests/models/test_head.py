"""The head rule (what trains besides the adapters)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from torch import nn

from dora_cli.models import head_parameters, load_model
from tests.models.conftest import SMALL
from tests.models.structure.test_projections import House

POOLER, CLASSIFIER = ["pooler.dense.weight", "pooler.dense.bias"], ["classifier.weight", "classifier.bias"]
DISTILBERT: dict[str, Any] = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50}


@pytest.mark.parametrize(
    ("saved_as", "config", "head"),
    [
        # DeBERTa's pooler lies outside the base model, so it is head whether or not the checkpoint has it
        (tf.DebertaV2ForMaskedLM, tf.DebertaV2Config(**SMALL), POOLER + CLASSIFIER),
        (
            tf.DistilBertForMaskedLM,
            tf.DistilBertConfig(**DISTILBERT),
            ["pre_classifier.weight", "pre_classifier.bias", *CLASSIFIER],
        ),
        # BERT's lies inside: fresh where the checkpoint is a masked language model, which has none
        (tf.BertForMaskedLM, tf.BertConfig(**SMALL), ["bert." + name for name in POOLER] + CLASSIFIER),
        (tf.BertModel, tf.BertConfig(**SMALL), CLASSIFIER),
        (tf.BertForPreTraining, tf.BertConfig(**SMALL), CLASSIFIER),
        (tf.AlbertForMaskedLM, tf.AlbertConfig(**SMALL), ["albert.pooler.weight", "albert.pooler.bias", *CLASSIFIER]),
    ],
)
def test_head_of_a_loaded_model(save: Callable[..., Path], saved_as: Any, config: Any, head: list[str]) -> None:
    loaded = load_model(str(save(saved_as, config)), num_labels=2)
    parameters = head_parameters(loaded.model, loaded.fresh)
    assert list(parameters) == head
    assert loaded.fresh == set(head)
    assert all(dict(loaded.model.named_parameters())[name] is p for name, p in parameters.items())


@pytest.mark.parametrize(
    ("saved_as", "config", "head"),
    [
        (tf.DebertaV2ForSequenceClassification, tf.DebertaV2Config(**SMALL), POOLER + CLASSIFIER),
        (
            tf.DistilBertForSequenceClassification,
            tf.DistilBertConfig(**DISTILBERT),
            ["pre_classifier.weight", "pre_classifier.bias", *CLASSIFIER],
        ),
        (tf.BertForSequenceClassification, tf.BertConfig(**SMALL), CLASSIFIER),
    ],
)
def test_head_of_a_tuned_checkpoint_is_loaded_and_still_head(
    save: Callable[..., Path], saved_as: Any, config: Any, head: list[str]
) -> None:
    folder = save(saved_as, config)
    loaded = load_model(str(folder), num_labels=2, seed=5)
    assert loaded.fresh == frozenset()
    assert list(head_parameters(loaded.model)) == head
    assert loaded.model.classifier.weight.equal(saved_as.from_pretrained(folder).classifier.weight)


def test_a_masked_language_model_s_tied_decoder_is_not_head() -> None:
    bert = tf.BertConfig(**SMALL)
    assert list(head_parameters(tf.BertForMaskedLM(bert))) == [
        "cls.predictions.bias",
        *(
            f"cls.predictions.transform.{name}"
            for name in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")
        ),
    ]  # and not cls.predictions.decoder.weight, the word embeddings


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (tf.GPT2LMHeadModel,
        tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, bos_token_id=2, eos_token_id=3)),
        (tf.LlamaForCausalLM, tf.LlamaConfig(**SMALL)),
        (
            tf.BartForConditionalGeneration,
            tf.BartConfig(
                d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
                encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=50,
            ),
        ),
        (tf.T5ForConditionalGeneration,
        tf.T5Config(d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, vocab_size=50)),
    ],
)  # fmt: skip
def test_a_generator_has_no_head_to_train(model_class: Any, config: Any, tied: bool) -> None:
    """Its language-modelling head was pretrained with the rest: nothing outside the blocks trains, tied or not."""
    config = deepcopy(config)
    config.tie_word_embeddings = tied
    model = model_class(config)
    if model_class in (tf.GPT2LMHeadModel, tf.LlamaForCausalLM):
        assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert head_parameters(model) == {}


def test_a_module_with_one_fresh_parameter_is_head_whole() -> None:
    model = tf.BertForSequenceClassification(tf.BertConfig(**SMALL))
    assert list(head_parameters(model, {"bert.pooler.dense.bias"})) == ["bert." + name for name in POOLER] + CLASSIFIER


def test_home_made_model_names_its_head_as_fresh() -> None:
    model: nn.Module = House()
    assert head_parameters(model) == {}
    assert list(head_parameters(model, {"roof.weight", "roof.bias"})) == ["roof.weight", "roof.bias"]
