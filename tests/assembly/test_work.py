"""The number of threads that a recipe on a model is worth."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, RobertaConfig

from dora_cli.assembly.work import decide_threads, largest_product
from dora_cli.machine.threads import WORK_PER_THREAD
from dora_cli.models import config_model
from dora_cli.recipe import Recipe, parse_recipe


def recipe_of(*overrides: str) -> Recipe:
    return parse_recipe("task: glue/sst2\nmodel: {name: builtin:tiny-encoder}", overrides=overrides)


def test_a_tiny_model_takes_one_and_a_large_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: pytest.fail("the load must not matter"))
    tiny = config_model("builtin:tiny-encoder", num_labels=2)
    demo = recipe_of("train.batch_size=32")
    assert largest_product(tiny, 32 * 128) == 32 * 128 * 96 * 288 < WORK_PER_THREAD
    assert decide_threads(demo, tiny, 64).count == 1
    with torch.device("meta"):
        roberta = AutoModelForSequenceClassification.from_config(RobertaConfig())
    assert largest_product(roberta, 16 * 128) == 16 * 128 * 768 * 3072
    assert decide_threads(recipe_of(), roberta, 16).count == 16
    worth = 16 * 128 * 768 * 3072 // WORK_PER_THREAD
    assert decide_threads(recipe_of(), roberta, 1000).count == worth
    assert decide_threads(recipe_of("train.batch_size=32"), roberta, 1000).count == 2 * worth
    assert decide_threads(recipe_of("data.max_length=64"), roberta, 1000).count == worth // 2


def test_a_model_without_blocks_and_no_model() -> None:
    assert largest_product(nn.Sequential(nn.Linear(30, 50), nn.LayerNorm(50), nn.Linear(50, 2)), 10) == 10 * 30 * 50
    assert largest_product(nn.LayerNorm(8), 10) == 0
    assert decide_threads(recipe_of(), None, 8) is None


def test_a_number_in_the_recipe_wins() -> None:
    for model in (None, nn.Linear(2, 2)):
        chosen = decide_threads(recipe_of("train.threads=7"), model, 2)
        assert chosen is not None
        assert chosen.count == 7
