"""Recipes of a federated training on the small random encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dora_cli.recipe import Recipe, parse_recipe

MakeFederated = Callable[..., Recipe]


@pytest.fixture
def federated(tiny_model: Path) -> MakeFederated:
    """A recipe of three clients with 8, 8 and 7 examples, in three rounds of four steps of four examples: six passes
    over the examples of each.
    """

    def make(*overrides: str) -> Recipe:
        text = f"""
            task: glue/sst2
            model: {{name: {tiny_model}}}
            data: {{source: builtin, max_train_samples: 23, max_eval_samples: 8}}
            method: {{name: lora, rank: 2, alpha: 4, dropout: 0.2}}
            federated: {{clients: 3, rounds: 3, local_steps: 4}}
            train: {{batch_size: 4, learning_rate: 2.0e-2, log_every: 3, device: cpu}}
            eval: {{select: last}}
            save: {{keep: 10}}
        """
        return parse_recipe(text, overrides=overrides)

    return make
