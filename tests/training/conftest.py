"""A small random encoder with a word tokenizer over the generated sentences, and recipes around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dora_cli.recipe import Recipe, parse_recipe
from tests.hostile.model import make_model

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def make_recipe(tiny_model: Path) -> MakeRecipe:
    """A recipe of 24 steps through all phases: warm-up to 3, pruning to 11, 18 components at the start,
    12 at the end.
    """

    def make(*overrides: str) -> Recipe:
        text = f"""
            task: glue/sst2
            model: {{name: {tiny_model}}}
            data: {{source: builtin, max_train_samples: 94, max_eval_samples: 40}}
            method: {{name: dora, rank: 2, prune_interval: 3, dropout: 0.0}}
            train: {{epochs: 4, batch_size: 16, learning_rate: 5.0e-3, log_every: 5, device: cpu}}
        """
        return parse_recipe(text, overrides=overrides)

    return make
