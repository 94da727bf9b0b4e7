"""How long a run is, and a warm-up that is longer."""

from __future__ import annotations

import pytest

from dora_cli import parse_recipe
from dora_cli.assembly.length import RunLength
from dora_cli.errors import BudgetError

RECIPE = "task: glue/sst2\nmodel: {name: m}\ntrain: {epochs: 3, batch_size: 16}"


def length(*overrides: str) -> RunLength:
    return RunLength.of(parse_recipe(RECIPE, overrides=overrides), 94, 1)


def test_steps_are_counted_by_epochs() -> None:
    found = length("train.lr_warmup_steps=17")
    assert (found.steps_per_epoch, found.total_steps, found.lr_warmup) == (6, 18, 17)  # ceil(94 / 16) steps an epoch


def test_a_round_of_a_federated_training_stands_for_an_epoch() -> None:
    """Steps and batches are a client's, however many processes and examples there are."""
    recipe = parse_recipe(
        "task: glue/sst2\nmodel: {name: m}\nmethod: {name: lora}\nfederated: {rounds: 4, local_steps: 25}\n"
        "train: {epochs: 3, batch_size: 16, gradient_accumulation: 2, lr_warmup_fraction: 0.1}"
    )
    found = RunLength.of(recipe, 94, 3)
    assert (found.steps_per_epoch, found.epochs, found.total_steps) == (25, 4, 100)
    assert (found.examples, found.global_batch, found.lr_warmup) == (94, 32, 10)
    assert [found.steps_in(round_) for round_ in (1, 4)] == [25, 25]
    assert found.locate(26) == "round 2, step 1 of 25"
    assert length().locate(7) == "epoch 2, batch 1 of 6"


def test_a_warm_up_ends_within_the_run() -> None:
    says = (
        r"^train\.lr_warmup_steps is 18, but the run has 18 optimiser steps; lower it below that, or train for longer$"
    )
    with pytest.raises(BudgetError, match=says):
        length("train.lr_warmup_steps=18")
