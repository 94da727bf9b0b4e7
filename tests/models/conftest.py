"""Small random base models with a small fast tokenizer, saved as users have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

VOCABULARY = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    "<mask>",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"word{i}" for i in range(19)),
]
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}


def small_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"unk_token": "<unk>", "eos_token": "</s>", **special})


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """Building and saving the test models is not what is under test; its chatter stays out of the output."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves a model, drawn from a fixed seed, with a tokenizer; returns the folder."""

    def save(model_class: Any, config: Any, name: str = "model", tokenizer: Any = "small") -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model_class(config).save_pretrained(tmp_path / name)
        if tokenizer is not None:
            (small_tokenizer(pad_token="<pad>") if tokenizer == "small" else tokenizer).save_pretrained(tmp_path / name)
        return tmp_path / name

    return save
