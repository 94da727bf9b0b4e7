"""Encoder-decoders that classify read their answer at an end token: every text has one, whatever the tokenizer does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import processors
from transformers import AutoTokenizer

from dora_cli.data import Examples, encode
from dora_cli.errors import ModelError
from dora_cli.models import config_model, load_model
from tests.models.conftest import small_tokenizer

Save = Callable[..., Path]
START, END, MASK = 2, 3, 4
SIZES = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 40, "pad_token_id": 0,
    "bos_token_id": START,
    "eos_token_id": END, "decoder_start_token_id": END, "forced_eos_token_id": END,
}  # fmt: skip
T5 = {
    "vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "pad_token_id": 0,
    "eos_token_id": END,
    "decoder_start_token_id": 0,
}  # fmt: skip
MODELS: dict[str, tuple[Any, Any]] = {
    "t5": (tf.T5ForConditionalGeneration, tf.T5Config(**T5)),
    "mt5": (tf.MT5ForConditionalGeneration, tf.MT5Config(**T5)),
    "umt5": (tf.UMT5ForConditionalGeneration, tf.UMT5Config(**T5)),
    "bart": (tf.BartForConditionalGeneration, tf.BartConfig(**SIZES)),
    "mbart": (tf.MBartForConditionalGeneration, tf.MBartConfig(**SIZES)),
    "plbart": (tf.PLBartForConditionalGeneration, tf.PLBartConfig(**SIZES)),
    "bigbird_pegasus": (
        tf.BigBirdPegasusForConditionalGeneration,
        tf.BigBirdPegasusConfig(**SIZES, attention_type="original_full"),
    ),
}
A, B, C = (5 + index for index in range(3))
"""The ids of the words a, b and c."""


def tokenizer_with(single: str | None, pair: str | None, **special: str) -> Any:
    tokenizer = small_tokenizer(**{"pad_token": "<pad>", **special})
    if single is not None:
        known = [("<s>", START), ("</s>", END), ("<mask>", MASK)]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=known
        )
    return tokenizer


def rows(loaded: Any, *columns: list[str], max_length: int = 40) -> list[list[int]]:
    tokens = encode(Examples(columns, [0] * len(columns[0])), loaded.tokenizer, max_length).tokens
    return [tokens.values[begin:end].tolist() for begin, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


@pytest.mark.parametrize("name", MODELS)
def test_every_such_model_classifies(save: Save, name: str) -> None:
    loaded = load_model(str(save(*MODELS[name], tokenizer=tokenizer_with(None, None))), num_labels=2)
    texts = ["a b c", "a", "b " * 60]
    assert rows(loaded, texts, max_length=8) == [[A, B, C, END], [A, END], [B] * 7 + [END]]
    batch = encode(Examples((texts,), [0] * 3), loaded.tokenizer, 8).collate([0, 1, 2])
    with torch.no_grad():
        assert loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.shape == (3, 2)


@pytest.mark.parametrize(
    ("single", "pair", "one", "two"),
    [
        (None, None, [A, B, END], [A, B, C, END]),
        ("<s> $A", "<s> $A <s> $B:1", [START, A, B, END], [START, A, B, START, C, END]),
        # an end between texts is not one behind them
        ("$A <mask>", "$A </s> $B <mask>", [A, B, MASK, END], [A, B, END, C, MASK, END]),
        # as they were: BART's, mBART's (a language behind the end) and T5's
        ("<s> $A </s>", "<s> $A </s> </s> $B </s>", [START, A, B, END], [START, A, B, END, END, C, END]),
        ("$A </s> <mask>", "$A $B </s> <mask>", [A, B, END, MASK], [A, B, C, END, MASK]),
        ("$A </s>", "$A </s> $B </s>", [A, B, END], [A, B, END, C, END]),
        ("$A </s>", "$A $B", [A, B, END], [A, B, C, END]),
    ],
)
def test_an_end_is_appended_once_and_the_rest_stays(
    save: Save, single: str | None, pair: str | None, one: list[int], two: list[int]
) -> None:
    loaded = load_model(str(save(*MODELS["bart"], tokenizer=tokenizer_with(single, pair))), num_labels=2)
    assert rows(loaded, ["a b"]) == [one]
    assert rows(loaded, ["a b"], ["c"]) == [two]
    assert loaded.tokenizer.num_special_tokens_to_add(pair=True) == len(two) - 3


def test_token_types_stay_as_well(save: Save) -> None:
    loaded = load_model(
        str(save(*MODELS["bart"], tokenizer=tokenizer_with("<s>:1 $A", "<s>:1 $A <s>:1 $B:1"))), num_labels=2
    )
    assert loaded.tokenizer("a", "b", return_token_type_ids=True)["token_type_ids"] == [1, 0, 1, 1, 1]


def test_it_is_saved_with_the_tokenizer(save: Save, tmp_path: Path) -> None:
    loaded = load_model(str(save(*MODELS["t5"], tokenizer=tokenizer_with("<s> $A", "<s> $A $B"))), num_labels=2)
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("a b")["input_ids"] == [START, A, B, END]


def test_other_models_keep_their_tokenizer(save: Save) -> None:
    config = tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=32, vocab_size=50, eos_token_id=END)
    loaded = load_model(str(save(tf.GPT2LMHeadModel, config, tokenizer=tokenizer_with(None, None))), num_labels=2)
    assert rows(loaded, ["a b"]) == [[A, B]]


def test_padding_is_no_end(save: Save) -> None:
    """Without a pad token of its own the end token would pad, and rows would have unequal numbers of ends."""
    tokenizer = small_tokenizer()
    assert tokenizer.pad_token is None
    loaded = load_model(str(save(*MODELS["bart"], tokenizer=tokenizer)), num_labels=2)
    split = encode(Examples((["a b c", "a"],), [0, 0]), loaded.tokenizer, 40)
    assert split.pad_token_id != END
    batch = split.collate([0, 1])
    with torch.no_grad():
        assert loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("stated", "special", "appended", "end"),
    [
        (MASK, {}, None, END),  # the tokenizer's own end token counts more
        (None, {}, None, END),
        (60, {}, None, END),
        (MASK, {"eos_token": None}, None, MASK),
        (1, {"eos_token": None, "sep_token": "</s>"}, None, END),  # 1 is what unknown words become
        (MASK, {}, "<mask>", MASK),  # what stands behind a text already is left alone
    ],
)
def test_which_token_is_the_end(
    save: Save, stated: int | None, special: dict[str, Any], appended: str | None, end: int
) -> None:
    config = tf.BartConfig(**{**SIZES, "forced_eos_token_id": None, "eos_token_id": stated})
    tokenizer = tokenizer_with(appended and f"$A {appended}", appended and f"$A $B {appended}", **special)
    loaded = load_model(str(save(tf.BartForConditionalGeneration, config, tokenizer=tokenizer)), num_labels=2)
    assert loaded.model.config.eos_token_id == end
    assert rows(loaded, ["a b"]) == [[A, B, end]]


def test_no_end_at_all(save: Save) -> None:
    config = tf.BartConfig(**{**SIZES, "forced_eos_token_id": None, "eos_token_id": 1})
    folder = save(tf.BartForConditionalGeneration, config, tokenizer=tokenizer_with(None, None, eos_token=None))
    with pytest.raises(ModelError, match=r"tokenizer has none, and eos_token_id in its config\.json \(1\) is no"):
        load_model(str(folder), num_labels=2)
    with pytest.raises(ModelError, match="its tokenizer has none"):
        config_model(str(folder), num_labels=2)
