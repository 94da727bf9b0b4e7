"""Every task through training and evaluation, and every kind of model: encoder, decoder, encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from dora_cli import evaluate, parse_recipe, train
from dora_cli.data.builtin import builtin_tasks
from dora_cli.tasks import get_task
from tests.training.conftest import MakeRecipe

SMALL = {
    "vocab_size": 1200,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=1200, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2)),
    "bart": lambda: transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=1200, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=2,
            eos_token_id=3,
            decoder_start_token_id=3, forced_eos_token_id=3,
        )
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=1200, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=3,
            decoder_start_token_id=0,
        )
    ),
}  # fmt: skip
# blocks x projections: GPT-2 c_attn, c_proj, c_fc, c_proj; Llama q, k, v, o, gate, up, down; BART and T5 6 and 10
# (encoder, decoder)
PROJECTIONS = {"gpt2": 2 * 4, "llama": 2 * 7, "bart": 2 * 6 + 2 * 10, "t5": 2 * 6 + 2 * 10}


CLASSIFICATION = [name for name in builtin_tasks() if not get_task(name).decodes]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_task_trains_and_is_reproduced(make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    result = train(make_recipe(f"task={name}", "train.max_steps=6"), tmp_path / "run")
    task, found = get_task(name), evaluate(tmp_path / "run")
    assert found["metrics"] == result.metrics["metrics"]
    assert task.primary in found["metrics"]
    assert tuple(found["splits"]) == task.eval_splits
    if len(task.eval_splits) == 2:
        each = [evaluate(tmp_path / "run", split=split)["metrics"][task.primary] for split in task.eval_splits]
        assert found["metrics"][task.primary] == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_trains_and_is_reproduced(tiny_model: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    MODELS[name]().save_pretrained(tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    tokenizer.save_pretrained(tmp_path / name)
    recipe = parse_recipe(f"""
        task: glue/sst2
        model: {{name: {tmp_path / name}}}
        data: {{source: builtin, max_train_samples: 48, max_eval_samples: 20}}
        method: {{name: dora, rank: 2, prune_interval: 2}}
        train: {{epochs: 4, batch_size: 8, device: cpu}}
    """)
    result = train(recipe, tmp_path / "run")
    assert len(result.ranks["layers"]) == PROJECTIONS[name]
    assert result.ranks["live_components"] == 2 * PROJECTIONS[name]
    assert evaluate(tmp_path / "run")["identical"] is True


def test_more_tokens_than_positions_is_one_message(tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The small BERT has 64 positions; the tokenizer does not say so."""
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.csv").write_text(
            "sentence,label\n" + f"{'film ' * 80},positive\nfilm,negative\n"
        )
    recipe = make_recipe(
        "data.source=files",
        f"data.path={tmp_path / 'data'}",
        "data.max_train_samples=null",
        "data.max_eval_samples=null",
    )
    with pytest.raises(ValueError, match=r"data\.max_length.*64"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_text_that_spells_a_special_token_is_text(tiny_model: Path, tmp_path: Path) -> None:
    from dora_cli.data import Examples, encode

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    split = encode(Examples(texts=(["a [SEP] film", "a film"],), labels=[0, 1]), tokenizer, 32)
    separators = [int((split.collate([row])["input_ids"] == tokenizer.sep_token_id).sum()) for row in (0, 1)]
    assert separators == [1, 1]
