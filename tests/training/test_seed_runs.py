"""Runs of several seeds: what stands in their way is said before the first of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.recipe import dump_recipe, parse_recipe
from dora_cli.recipe.anchor import anchored
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.seed_runs import train_seeds

RECIPE = "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\ndata: {source: builtin}\n"
REPLACE = "choose another --output, or pass --overwrite to replace it"


def test_a_single_run_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    said = f"--output {tmp_path} holds a single run already; {REPLACE}"
    with pytest.raises(OutputError, match=f"^{re.escape(said)}$"):
        train_seeds(parse_recipe(RECIPE), tmp_path, [1, 2])


def test_a_run_of_another_recipe_is_named_with_what_differs(tmp_path: Path) -> None:
    (tmp_path / "seed-1").mkdir()
    other = parse_recipe(RECIPE, overrides=["train.seed=1", "train.epochs=2"])
    (tmp_path / "seed-1" / "recipe.yaml").write_text(dump_recipe(anchored(other)))
    said = f"{tmp_path}/seed-1 holds a run of another recipe; {REPLACE}\ntrain.epochs was 2 and is 3"
    with pytest.raises(OutputError, match=f"^{re.escape(said)}$"):
        train_seeds(parse_recipe(RECIPE, overrides=["train.epochs=3"]), tmp_path, [1, 2])


def test_more_seeds_of_a_method_that_holds_examples_out(tmp_path: Path) -> None:
    """What the method has for itself is part of the data that all seeds have in common."""
    short = ["train.max_steps=8", "train.device=cpu", "train.log_every=4", "data.max_train_samples=100"]
    recipe = parse_recipe(RECIPE, overrides=["method={name: dora, rank: 2, guard: true, prune_interval: 1}", *short])
    train_seeds(recipe, tmp_path, [1])
    assert train_seeds(recipe, tmp_path, [1, 2])["seeds"] == [1, 2]
    one, two = (RunRecords(tmp_path / f"seed-{seed}").read_environment()["data"] for seed in (1, 2))
    assert one == two
    assert "held_out" in one
