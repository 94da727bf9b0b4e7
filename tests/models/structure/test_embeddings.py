"""Which module of a model is its embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from dora_cli.models.structure.embeddings import embeddings_of

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("bert", "bert.embeddings"),
        ("roberta", "roberta.embeddings"),
        ("electra", "electra.embeddings"),
        ("albert", "albert.embeddings"),
        ("distilbert", "distilbert.embeddings"),
        ("deberta-v2", "deberta.embeddings"),
        ("llama", None),
        ("gpt2", None),
        ("opt", None),
        ("bart", None),
    ],
)
def test_those_that_do_more_than_to_look_up(kind: str, path: str | None) -> None:
    sizes = {**SMALL, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # as BART has them
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes, pad_token_id=0))
    assert embeddings_of(model) is (None if path is None else model.get_submodule(path))


def test_none_where_the_table_cannot_be_seen() -> None:
    assert embeddings_of(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2))) is None


def test_none_where_two_hold_the_table() -> None:
    """Neither is what comes before the first block."""
    table = nn.Embedding(3, 2)
    model = nn.ModuleList([nn.Sequential(table), nn.Sequential(table)])
    model.get_input_embeddings = lambda: table
    assert embeddings_of(model) is None
