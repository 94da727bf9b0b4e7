"""The nearest known name."""

from __future__ import annotations

import pytest

from dora_cli.recipe.hints import nearest

KEYS = ["epochs", "max_steps", "batch_size", "gradient_accumulation", "learning_rate", "weight_decay", "seed"]


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("epoch", "epochs"),
        ("learning-rate", "learning_rate"),
        ("Batch_Size", "batch_size"),
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("accumulation", "gradient_accumulation"),
        ("grad", "gradient_accumulation"),
        ("dropout", None),
        ("x", None),
        ("", None),
    ],
)
def test_nearest(typed, known):
    assert nearest(typed, KEYS) == known


def test_nothing_is_near_nothing():
    assert nearest("seed", []) is None
