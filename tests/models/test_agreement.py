"""Tokenizers and models that do not come from each other: made to agree, or refused in one message."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from dora_cli.data import Examples, encode
from dora_cli.errors import DataError, ModelError
from dora_cli.models import config_generator, config_model, load_generator, load_model, max_positions
from tests.models.conftest import SMALL, small_tokenizer

Save = Callable[..., Path]
ENCODER = {**SMALL, "num_hidden_layers": 1, "pad_token_id": 0}


def typed_tokenizer(kinds: int = 2) -> PreTrainedTokenizerFast:
    """BERT's pattern of special tokens and token types; with three kinds of types as XLNet's, whose last token has its
    own.
    """
    tokenizer = small_tokenizer(pad_token="<pad>", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A </s>:{kinds - 2}",
        pair=f"<s> $A </s> $B:1 </s>:{kinds - 1}",
        special_tokens=[("<s>", 2), ("</s>", 3)],
    )
    return tokenizer


def logits_of(loaded: Any, *columns: list[str], max_length: int = 40) -> torch.Tensor:
    split = encode(Examples(columns, [0] * len(columns[0])), loaded.tokenizer, max_length)
    batch = {name: tensor for name, tensor in split.collate(range(len(split))).items() if name != "labels"}
    with torch.no_grad():
        return loaded.model(**batch).logits


# --- token types ------------------------------------------------------------------------------------------------------

ONE_TYPE = {
    "roberta": (tf.RobertaForMaskedLM, tf.RobertaConfig),
    "yoso": (tf.YosoForMaskedLM, tf.YosoConfig),
    "mra": (tf.MraForMaskedLM, tf.MraConfig),
    "jina_embeddings_v3": (
        getattr(tf, "JinaEmbeddingsV3ForMaskedLM", None),
        getattr(tf, "JinaEmbeddingsV3Config", None),
    ),
}


@pytest.mark.parametrize("name", ONE_TYPE)
def test_a_model_with_one_token_type_has_zeros(save: Save, name: str) -> None:
    model_class, config_class = ONE_TYPE[name]
    if model_class is None:
        pytest.skip("not in this version of transformers")
    loaded = load_model(
        str(save(model_class, config_class(**ENCODER, type_vocab_size=1), tokenizer=typed_tokenizer())), num_labels=2
    )
    pair = ["a b c"], ["d e"]
    ids = torch.tensor([loaded.tokenizer(*(column[0] for column in pair))["input_ids"]])
    with torch.no_grad():
        zeros = loaded.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids)
        ).logits
    split = encode(Examples(pair, [0]), loaded.tokenizer, ids.shape[1])
    assert split.token_types is None
    torch.testing.assert_close(logits_of(loaded, *pair, max_length=ids.shape[1]), zeros)


def test_a_model_with_two_has_what_its_tokenizer_says(save: Save) -> None:
    loaded = load_model(
        str(save(tf.BertForMaskedLM, tf.BertConfig(**ENCODER), tokenizer=typed_tokenizer())), num_labels=2
    )
    split = encode(Examples((["a b"], ["c"]), [0]), loaded.tokenizer, 40)
    assert split.collate([0], pad_multiple=1)["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


def test_a_model_that_takes_none_gets_none(save: Save) -> None:
    config = tf.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=40
    )
    loaded = load_model(str(save(tf.DistilBertForMaskedLM, config, tokenizer=typed_tokenizer())), num_labels=2)
    assert logits_of(loaded, ["a b"], ["c"]).shape == (1, 2)


def test_more_types_than_the_model_has(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, tf.BertConfig(**ENCODER), tokenizer=typed_tokenizer(kinds=3))
    with pytest.raises(ModelError, match=r"token types up to 2 but the model only 2 \(type_vocab_size\)"):
        load_model(str(folder), num_labels=2)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"type_vocab_size"):
        config_model(str(folder), num_labels=2)


# --- vocabulary -------------------------------------------------------------------------------------------------------

SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}


def seq2seq(**changes: Any) -> tf.BartConfig:
    sizes = {f"{stack}_{what}": size for stack in ("encoder", "decoder") for what, size in SIZES.items()}
    special = {
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "decoder_start_token_id": 3,
        "forced_eos_token_id": 3,
    }
    return tf.BartConfig(vocab_size=50, d_model=16, max_position_embeddings=40, **sizes, **{**special, **changes})


@pytest.mark.parametrize(
    "load", [load_generator, config_generator, partial(load_model, num_labels=2), partial(config_model, num_labels=2)]
)
def test_a_decoder_that_starts_outside_the_vocabulary(save: Save, load: Callable[[str], Any]) -> None:
    folder = save(tf.BartForConditionalGeneration, seq2seq(decoder_start_token_id=77))
    with pytest.raises(
        ModelError,
        match=r"starts with token 77 \(decoder_start_token_id\), but the model has only 50 "
        r"embeddings",
    ):
        load(str(folder))


def test_a_model_without_a_table_of_tokens(save: Save) -> None:
    """CANINE hashes what it reads, so any tokenizer fits."""
    config = tf.CanineConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_hash_buckets=64,
        max_position_embeddings=64,
    )
    loaded = load_model(
        str(save(tf.CanineForSequenceClassification, config, tokenizer=typed_tokenizer())), num_labels=2
    )
    assert logits_of(loaded, ["a b c d e f g"], ["h i j k"]).isfinite().all()


# --- positions --------------------------------------------------------------------------------------------------------

POSITIONS = {  # 37 by the config; RoBERTa begins after its padding index, which is 0 here
    "bert": (tf.BertForMaskedLM, tf.BertConfig, 37),
    "roberta": (tf.RobertaForMaskedLM, tf.RobertaConfig, 36),
    "yoso": (tf.YosoForMaskedLM, tf.YosoConfig, 37),
    "mra": (tf.MraForMaskedLM, tf.MraConfig, 37),
    "nystromformer": (tf.NystromformerForMaskedLM, tf.NystromformerConfig, 37),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_end_where_the_model_s_do(save: Save, name: str) -> None:
    """Just as many tokens as there are positions go through, in a batch that is padded no wider; one token
    more is refused.
    """
    model_class, config_class, positions = POSITIONS[name]
    config = config_class(**{**ENCODER, "max_position_embeddings": 37}, type_vocab_size=2)
    loaded = load_model(str(save(model_class, config, tokenizer=typed_tokenizer())), num_labels=2)
    assert max_positions(loaded.model) == positions
    longest = " ".join("a" * (positions - 2))  # beside its two special tokens
    assert logits_of(loaded, [longest, "b"], max_length=128).isfinite().all()
    with pytest.raises(DataError, match=rf"data\.max_length: \d+ is above {positions},"):
        encode(Examples(([longest + " a"],), [0]), loaded.tokenizer, 128)
