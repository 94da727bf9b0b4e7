"""Loading for classification: what comes back, that it is reproducible, and one clear message for everything that can
be wrong.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from huggingface_hub import constants

from dora_cli.errors import ModelError
from dora_cli.models import config_model, find_projections, head_parameters, load_model
from tests.models.conftest import SMALL, small_tokenizer

Save = Callable[..., Path]
BERT = tf.BertConfig(**SMALL)
GPT2 = tf.GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=32, vocab_size=50, bos_token_id=2, eos_token_id=3)


def test_what_comes_back(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    loaded = load_model(str(folder), num_labels=3, label_names=["no", "maybe", "yes"])
    assert (loaded.source, loaded.commit) == ("local", None)
    assert type(loaded.model).__name__ == "BertForSequenceClassification"
    assert not loaded.model.training
    assert loaded.model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert loaded.model.config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert loaded.model.config.problem_type == "single_label_classification"
    assert loaded.model.classifier.weight.shape == (3, 16)
    assert loaded.tokenizer.is_fast
    assert loaded.tokenizer.padding_side == "right"
    stored = tf.BertForMaskedLM.from_pretrained(folder)
    for name, parameter in stored.bert.named_parameters():
        assert parameter.equal(loaded.model.bert.get_parameter(name)), name


def test_regression_has_one_output(save: Save) -> None:
    model = load_model(str(save(tf.BertForMaskedLM, BERT)), num_labels=1, regression=True).model
    assert model.classifier.weight.shape == (1, 16)
    assert model.config.problem_type == "regression"


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_dtype(save: Save, dtype: str, expected: torch.dtype) -> None:
    model = load_model(str(save(tf.BertForMaskedLM, BERT)), num_labels=2, dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {expected}


def test_half_precision_checkpoint_loads_in_full_precision_by_default(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    tf.BertForMaskedLM.from_pretrained(folder).half().save_pretrained(folder)
    assert {p.dtype for p in load_model(str(folder), num_labels=2).model.parameters()} == {torch.float32}


def test_unknown_dtype() -> None:
    with pytest.raises(ModelError, match=r"model\.dtype: 'int8' is unknown; choose one of float32, bfloat16, float16"):
        load_model("x", num_labels=2, dtype="int8")


def test_fresh_parameters_come_from_the_seed_alone(save: Save) -> None:
    folder = str(save(tf.BertForMaskedLM, BERT))

    def head(seed: int, before: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(before)
        random.seed(before)
        np.random.seed(before)
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        loaded = load_model(folder, num_labels=2, seed=seed)
        assert torch.get_rng_state().equal(states[0])
        assert random.getstate() == states[1]
        assert np.random.get_state()[1].tolist() == states[2]
        return {name: p.detach() for name, p in head_parameters(loaded.model, loaded.fresh).items()}

    first, again, other = head(3, before=1), head(3, before=2), head(4, before=1)
    assert list(first) == ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]
    for name, value in first.items():
        assert value.equal(again[name]), name
        if name.endswith("weight"):
            assert not value.equal(other[name])
            assert 0.01 < value.std() < 0.04
        else:
            assert not value.any()


@pytest.mark.parametrize("checkpoint", [tf.BertForSequenceClassification, tf.BertModel])
def test_head_of_another_size_is_drawn_anew(save: Save, checkpoint: Any) -> None:
    """A checkpoint tuned on three classes serves a task with two: only its output layer is replaced."""
    config = tf.BertConfig(num_labels=3, **SMALL)
    loaded = load_model(str(save(checkpoint, config)), num_labels=2)
    assert loaded.fresh == {"classifier.weight", "classifier.bias"}
    assert loaded.model.classifier.weight.shape == (2, 16)


@pytest.mark.parametrize(
    ("saved_as", "config"),
    [
        (tf.GPT2LMHeadModel, GPT2),
        (tf.LlamaForCausalLM, tf.LlamaConfig(num_key_value_heads=2, bos_token_id=2, eos_token_id=3, **SMALL)),
    ],
)
def test_decoder_without_pad_token(save: Save, saved_as: Any, config: Any) -> None:
    """Padding must not change the logits, which come from the last real token."""
    loaded = load_model(str(save(saved_as, config, tokenizer=small_tokenizer())), num_labels=2)
    assert loaded.tokenizer.pad_token_id == loaded.model.config.pad_token_id == 3
    assert loaded.fresh == {"score.weight"}
    assert loaded.model.config.use_cache is False
    short, long = (loaded.tokenizer(text, return_tensors="pt") for text in ("a b c", "a b c d e f g"))
    both = loaded.tokenizer(["a b c", "a b c d e f g"], padding=True, return_tensors="pt")
    assert both["attention_mask"].sum(1).tolist() == [3, 7]
    with torch.no_grad():
        alone = torch.cat(
            [loaded.model(input_ids=x["input_ids"], attention_mask=x["attention_mask"]).logits for x in (short, long)]
        )
        padded = loaded.model(input_ids=both["input_ids"], attention_mask=both["attention_mask"]).logits
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_sequence_to_sequence_checkpoints_fill_the_base(save: Save) -> None:
    t5 = tf.T5Config(d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, vocab_size=50)
    loaded = load_model(str(save(tf.T5ForConditionalGeneration, t5)), num_labels=2)
    head = {
        f"classification_head.{name}" for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
    }
    assert loaded.fresh == set(head_parameters(loaded.model, loaded.fresh)) == head


class Heard(logging.Handler):
    """Keeps what is logged, by transformers, which passes nothing on, and by all others."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> Heard:
        for name in (None, "transformers"):
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in (None, "transformers"):
            logging.getLogger(name).removeHandler(self)


def test_loading_says_nothing(save: Save, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging as verbosity

    folder = str(save(tf.BertForMaskedLM, BERT))
    verbosity.set_verbosity_warning()
    verbosity.enable_progress_bar()
    before = are_progress_bars_disabled()
    capfd.readouterr()
    recwarn.clear()
    with Heard() as heard:
        load_model(folder, num_labels=2)
        assert capfd.readouterr() == ("", "")
        assert not heard.said
        assert not list(recwarn)
        assert verbosity.get_verbosity() == 30
        assert verbosity.is_progress_bar_enabled()
        assert are_progress_bars_disabled() == before
        tf.BertForSequenceClassification.from_pretrained(folder)
    assert "classifier.weight" in "".join(heard.said)  # so there was something to silence, and it is heard again


# --- from the config alone --------------------------------------------------------------------------------------------


def test_config_model_needs_no_weights_and_no_tokenizer(tmp_path: Path) -> None:
    tf.RobertaConfig().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    model = config_model(str(tmp_path), num_labels=3, label_names=list("abc"))
    assert torch.get_rng_state().equal(before)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    projections = find_projections(model)
    assert (len(projections), sum(sum(p.shape) for p in projections)) == (72, 165_888)
    assert sum(p.numel() for p in head_parameters(model).values()) == 768 * 768 + 768 + 3 * 768 + 3


def test_config_model_has_the_parameters_of_the_loaded_one(save: Save) -> None:
    folder = str(save(tf.BertForMaskedLM, BERT))
    shapes = {name: p.shape for name, p in load_model(folder, num_labels=2).model.named_parameters()}
    assert {name: p.shape for name, p in config_model(folder, num_labels=2).named_parameters()} == shapes


# --- what can be wrong ------------------------------------------------------------------------------------------------


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_keys(folder: Path, *parts: str) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    state = {key: value for key, value in load_file(weights).items() if not any(part in key for part in parts)}
    save_file(state, weights, metadata={"format": "pt"})


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(str(folder), num_labels=2)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        ("layer.1.attention.self.query", r"bert\.encoder\.layer\.1\.attention\.self\.query\.bias \(and 1 more\)"),
        ("layer.0.output.LayerNorm", r"bert\.encoder\.layer\.0\.output\.LayerNorm\.bias \(and 1 more\)"),
        ("word_embeddings", r"bert\.embeddings\.word_embeddings\.weight;"),
    ],
)
def test_missing_weights_of_the_base(save: Save, dropped: str, named: str) -> None:
    # a base model's own checkpoint (no prefix), so that no tied decoder stands in for the word embeddings
    folder = save(tf.BertModel, BERT)
    drop_keys(folder, dropped)
    refused(folder, "lacks weights of the base model: " + named)


def test_missing_layer_and_other_architecture(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    edit_config(folder, num_hidden_layers=3)
    refused(folder, r"lacks weights of the base model: bert\.encoder\.layer\.2\..* \(and 15 more\)")
    edit_config(folder, num_hidden_layers=2, model_type="roberta")
    refused(folder, "another architecture than RobertaForSequenceClassification")


def test_sizes_that_do_not_fit(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    edit_config(folder, intermediate_size=64)
    first = r"bert\.encoder\.layer\.0\.intermediate\.dense\.bias"
    shapes = r" is \[32\] in the checkpoint and \[64\] by the config" if tf.__version__ >= "5" else ""
    refused(folder, rf"do not fit the sizes in its config\.json: {first}{shapes} \(and 5 more\)")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", None])
def test_damaged_weights(save: Save, content: bytes | None) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100] if content is None else content)
    refused(folder, r"the weights of .* are damaged \(.*\); download or build the model again")


def test_no_weights(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    (folder / "model.safetensors").unlink()
    refused(folder, r"cannot be loaded: .*no file named .*model\.safetensors")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("{nope", "not a valid JSON file"),
        ("{}", "model_type"),
        ('{"model_type": "frobnicator"}', "frobnicator"),
        (
            '{"model_type": "vit"}',
            "'vit', .*sequence-classification",
        ),
        ('{"model_type": "bert", "quantization_config": {"quant_method": "bitsandbytes"}}', "quantised"),
        (
            '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}',
            r"needs Python code .* set model\.trust_remote_code: true if",
        ),
    ],
)
def test_unusable_config(save: Save, config: str, match: str) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    (folder / "config.json").write_text(config)
    refused(folder, match)
    with pytest.raises(ModelError, match=match):
        config_model(str(folder), num_labels=2)


def test_no_tokenizer(save: Save) -> None:
    refused(save(tf.BertForMaskedLM, BERT, tokenizer=None), "tokenizer.json")
    t5 = tf.T5Config(d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, vocab_size=50)
    refused(save(tf.T5ForConditionalGeneration, t5, "t5", tokenizer=None), "tokenizer.json")


def test_slow_tokenizer(save: Save) -> None:
    refused(save(tf.BertForMaskedLM, BERT, tokenizer=tf.ByT5Tokenizer()), r"only a slow tokenizer \(ByT5Tokenizer\)")


def test_damaged_tokenizer(save: Save) -> None:
    folder = save(tf.BertForMaskedLM, BERT)
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "its tokenizer does not load")


def test_tokenizer_of_another_model(save: Save) -> None:
    refused(
        save(tf.BertForMaskedLM, tf.BertConfig(**{**SMALL, "vocab_size": 40})),
        "token ids up to 49 but the model only 40 embeddings",
    )


def test_neither_pad_nor_end_token(save: Save) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer().backend_tokenizer)
    refused(save(tf.GPT2LMHeadModel, GPT2, tokenizer=tokenizer), "neither a pad nor an end-of-sequence token")


def test_hub_model_from_the_cache_without_a_network(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The commit is known from the cache, files of that commit are read, and nothing is said about the
    missing network.
    """
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--someone--small"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots").mkdir()
    save(tf.BertForMaskedLM, BERT).rename(cache / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read from the environment once, at import
    capfd.readouterr()
    loaded = load_model("someone/small", num_labels=2)
    assert (loaded.source, loaded.commit, len(loaded.fresh)) == ("hub", commit, 4)
    assert loaded.tokenizer.pad_token == "<pad>"
    assert type(config_model("someone/small", num_labels=2)).__name__ == "BertForSequenceClassification"
    assert capfd.readouterr() == ("", "")
