"""Loading for generation: which class, that every weight comes from the checkpoint, and one clear message for what does
not generate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from dora_cli.errors import ModelError
from dora_cli.models import ModelUnreachableError, config_generator, head_parameters, load_generator
from tests.models.conftest import SMALL, small_tokenizer
from tests.models.test_loading import drop_keys, edit_config

Save = Callable[..., Path]
GPT2 = tf.GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=32, vocab_size=50, bos_token_id=2, eos_token_id=3)
LLAMA = tf.LlamaConfig(num_key_value_heads=2, bos_token_id=2, eos_token_id=3, tie_word_embeddings=False, **SMALL)
TIED_LLAMA = tf.LlamaConfig(num_key_value_heads=2, bos_token_id=2, eos_token_id=3, tie_word_embeddings=True, **SMALL)
BART = tf.BartConfig(
    d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
    decoder_attention_heads=2, vocab_size=50, max_position_embeddings=40, pad_token_id=0, bos_token_id=2,
    eos_token_id=3,
    decoder_start_token_id=3, forced_eos_token_id=3,
)  # fmt: skip
T5 = tf.T5Config(
    d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, vocab_size=50, eos_token_id=3, decoder_start_token_id=0
)
GENERATORS = [
    (tf.GPT2LMHeadModel, GPT2, None),
    (tf.LlamaForCausalLM, LLAMA, None),
    (tf.LlamaForCausalLM, TIED_LLAMA, None),
    (tf.BartForConditionalGeneration, BART, 3),
    (tf.T5ForConditionalGeneration, T5, 0),
]


@pytest.mark.parametrize(("model_class", "config", "start"), GENERATORS)
def test_what_comes_back(save: Save, model_class: Any, config: Any, start: int | None) -> None:
    folder = save(model_class, config)
    before = torch.get_rng_state()
    loaded = load_generator(str(folder))
    assert torch.get_rng_state().equal(before)
    assert type(loaded.model) is model_class
    assert (loaded.decoder_start, loaded.fresh, loaded.source, loaded.commit) == (start, frozenset(), "local", None)
    assert not loaded.model.training
    assert loaded.model.config.use_cache is False
    assert (loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id, loaded.tokenizer.padding_side) == (
        0,
        3,
        "right",
    )
    assert head_parameters(loaded.model, loaded.fresh) == {}
    stored = dict(model_class.from_pretrained(folder).named_parameters())
    assert {name: p.shape for name, p in loaded.model.named_parameters()} == {
        name: p.shape for name, p in stored.items()
    }
    assert all(p.equal(stored[name]) for name, p in loaded.model.named_parameters())


@pytest.mark.parametrize(("model_class", "config", "start"), GENERATORS)
def test_from_the_config_alone(tmp_path: Path, model_class: Any, config: Any, start: int | None) -> None:
    config.save_pretrained(tmp_path)
    model = config_generator(str(tmp_path))
    assert type(model) is model_class
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert head_parameters(model) == {}
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in model_class(config).named_parameters()
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(save: Save, dtype: str) -> None:
    model = load_generator(str(save(tf.GPT2LMHeadModel, GPT2)), dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_pad_is_the_end_token_where_there_is_none(save: Save) -> None:
    loaded = load_generator(str(save(tf.GPT2LMHeadModel, GPT2, tokenizer=small_tokenizer())))
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == loaded.model.config.pad_token_id == 3
    assert loaded.tokenizer.model_max_length == 32


def test_the_base_model_of_a_tied_decoder_is_enough(save: Save) -> None:
    """GPT-2 as published: no prefix, no `lm_head.weight`, which is the embeddings' own."""
    folder = save(tf.GPT2Model, GPT2)
    model: Any = load_generator(str(folder)).model
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.equal(tf.GPT2Model.from_pretrained(folder).wte.weight)


def test_the_start_token_of_a_decoder(save: Save) -> None:
    folder = save(tf.T5ForConditionalGeneration, T5)
    (folder / "generation_config.json").unlink()
    edit_config(folder, decoder_start_token_id=None)
    with pytest.raises(
        ModelError,
        match="says with which token its decoder starts neither as decoder_start_token_id nor as bos_token_id",
    ):
        load_generator(str(folder))
    tf.GenerationConfig(bos_token_id=2).save_pretrained(folder)
    assert load_generator(str(folder)).decoder_start == 2
    tf.GenerationConfig(bos_token_id=2, decoder_start_token_id=4).save_pretrained(folder)
    assert load_generator(str(folder)).decoder_start == 4


# --- what can be wrong ------------------------------------------------------------------------------------------------


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_generator(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_class", "config", "kind"),
    [
        (tf.BertForMaskedLM, tf.BertConfig(**SMALL), "bert"),
        (tf.RobertaForMaskedLM, tf.RobertaConfig(**SMALL), "roberta"),
        (tf.DebertaV2ForMaskedLM, tf.DebertaV2Config(**SMALL), "deberta-v2"),
    ],
)
def test_encoders_do_not_generate(save: Save, model_class: Any, config: Any, kind: str) -> None:
    folder = save(model_class, config)
    match = (
        rf"is of the model type '{kind}', which does not generate text from text; choose a decoder \(GPT-2, "
        r"Llama, \.\.\.\)"
    )
    refused(folder, match)
    with pytest.raises(ModelError, match=match):
        config_generator(str(folder))


def test_a_head_that_is_missing_is_not_drawn(save: Save) -> None:
    refused(
        save(tf.LlamaModel, LLAMA),
        r"lacks weights of LlamaForCausalLM: lm_head\.weight; text cannot be generated with random ones: choose a "
        r"checkpoint",
    )
    refused(save(tf.LlamaForSequenceClassification, LLAMA, "classifier"), r"lm_head\.weight")


@pytest.mark.parametrize(
    ("dropped", "match"),
    [
        (
            "transformer.h.1.attn",
            (
                r"^model\.name: .*: "
                r"transformer\.h\.1\.attn"
            ),
        ),
        ("ln_f", r"ln_f\.bias \(and 1 more\)"),
    ],
)
def test_missing_weights(save: Save, dropped: str, match: str) -> None:
    folder = save(tf.GPT2LMHeadModel, GPT2)
    drop_keys(folder, dropped)
    refused(folder, match)


def test_a_head_of_another_size(save: Save) -> None:
    """Both its embeddings and an untied head are of the checkpoint's vocabulary."""
    folder = save(tf.LlamaForCausalLM, LLAMA)
    edit_config(folder, vocab_size=60)
    refused(folder, r"do not fit the sizes in its config\.json: model\.embed_tokens\.weight")


def test_no_end_token(save: Save) -> None:
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=small_tokenizer().backend_tokenizer, pad_token="<pad>")
    refused(
        save(tf.GPT2LMHeadModel, GPT2, tokenizer=tokenizer),
        "has no end-of-sequence token, which ends every reference; set its eos_token",
    )


def test_unknown_dtype_and_unreachable_model() -> None:
    with pytest.raises(ModelError, match=r"model\.dtype: 'int8' is unknown"):
        load_generator("x", dtype="int8")
    for ask in (load_generator, config_generator):
        with pytest.raises(ModelUnreachableError, match="nobody/nothing"):
            ask("nobody/nothing")
