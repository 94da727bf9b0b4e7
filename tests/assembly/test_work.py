"""The number of threads that a recipe on a model is worth, and what its batches are worth being cut into."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, RobertaConfig

from dora_cli.assembly.work import FEW_PIECES, block_product, decide_cuts, decide_threads, largest_product
from dora_cli.data.cuts import MOST_PARTS, UNCUT, Cuts
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


def test_a_batch_is_cut_where_that_saves_more_than_a_pass_costs() -> None:
    """By the multiplications of a block: MiniLM's and RoBERTa's have ``12 width^2`` a token."""
    tiny = config_model("builtin:tiny-encoder", num_labels=2)
    with torch.device("meta"):
        minilm, roberta = (
            AutoModelForSequenceClassification.from_config(
                RobertaConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=6)
            )
            for width in (384, 768)
        )
    assert [block_product(model) for model in (minilm, roberta)] == [12 * 384**2, 12 * 768**2]

    def tokens(model: nn.Module, device: str, threads: int = 1) -> int:
        cuts = decide_cuts(recipe_of(), model, device, captured=device == "cuda", threads=threads)
        assert cuts == Cuts(MOST_PARTS, cuts.pass_tokens, FEW_PIECES if device == "cuda" else 32, device == "cpu")
        return cuts.pass_tokens

    assert [tokens(model, "cpu") for model in (minilm, roberta)] == [76, 19]
    assert [tokens(minilm, "cpu", threads) for threads in (2, 4)] == [152, 304]
    assert tokens(tiny, "cpu") > 16 * 30  # more than there is in a batch of the demonstration
    assert tokens(roberta, "cuda", 8) == -(-(2**35) // (12 * 768**2)) > 4000


def test_a_batch_is_left_whole_where_nothing_is_known_of_a_pass() -> None:
    with torch.device("meta"):
        roberta = AutoModelForSequenceClassification.from_config(RobertaConfig())
    assert decide_cuts(recipe_of(), roberta, "cuda", captured=False, threads=1) == UNCUT
    assert decide_cuts(recipe_of(), nn.Linear(3, 3), "cpu", captured=False, threads=1) == UNCUT
    assert decide_cuts(recipe_of(), None, "cpu", captured=False, threads=None) is None
    said = decide_cuts(recipe_of("train.batch_parts=4"), None, "cpu", captured=False, threads=None)
    assert said == Cuts(4, dealt=True)


def test_parts_that_a_recipe_says_are_made_on_every_device() -> None:
    for device, pieces in (("cpu", 32), ("cuda", FEW_PIECES)):
        found = decide_cuts(recipe_of("train.batch_parts=3"), nn.Linear(3, 3), device, captured=False, threads=1)
        assert found == Cuts(3, 0, pieces, dealt=device == "cpu")
    assert decide_cuts(recipe_of("train.batch_parts=1"), nn.Linear(3, 3), "cpu", captured=False, threads=1) == UNCUT
