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


def test_a_warm_up_ends_within_the_run() -> None:
    says = (
        r"^train\.lr_warmup_steps is 18, but the run has 18 optimiser steps; lower it below that, or train for longer$"
    )
    with pytest.raises(BudgetError, match=says):
        length("train.lr_warmup_steps=18")
