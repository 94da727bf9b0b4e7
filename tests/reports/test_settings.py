from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.reports.settings import settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "is damaged"),
        ("just words", "holds no keys"),
        ("a: &a [1]\nb: [*a, *a]", "alias"),
        ("a: " + "[" * 3000, "nested"),
        ("a: 1\n" * 300_000, "characters"),
        ("a: 2001-99-99", "is damaged"),
        ("a: 0x" + "f" * 5000, "is damaged"),
        ("0x" + "f" * 5000 + ": a", "is damaged"),
        ("a: " + "1" + ":1" * 5000, "is damaged"),
        ('a: "\\UFFFFFFFF"', "is damaged"),
        ('a: "\\ud800"', "surrogates not allowed"),
        ('"\\ud800": a', "surrogates not allowed"),
        ("[a]: 1", "is damaged"),
    ],
)
def test_a_recipe_that_dora_did_not_write(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        settings(text, tmp_path / "recipe.yaml")


def test_settings() -> None:
    text = (
        "task: glue/rte\nmethod: {name: dora, targets: [attention, ffn], start_rank: null}\ntrain: {learning_rate: "
        "2.0e-3}\n"
    )
    assert settings(text, Path("recipe.yaml")) == {
        "task": "glue/rte",
        "method.name": "dora",
        "method.targets": "[attention, ffn]",
        "method.start_rank": "null",
        "train.learning_rate": "0.002",
    }
    assert settings("", Path("recipe.yaml")) == {}
