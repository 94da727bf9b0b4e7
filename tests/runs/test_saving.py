"""Which epochs are followed by a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli import train
from dora_cli.recipe import Recipe
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from tests.runs.test_resume import assert_equal_runs, cut
from tests.training.conftest import MakeRecipe
from tests.training.test_run import read

pytestmark = pytest.mark.slow

SHORT = ("data.max_train_samples=46", "data.max_eval_samples=16", "train.batch_size=8", "method.dropout=0.2")
SELDOM = ("save.every_epoch=false", "save.keep=10")


def steps(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in checkpoints_of(RunRecords(run)))


def make(make_recipe: MakeRecipe, *changes: str) -> Recipe:
    """4 epochs of 6 steps."""
    return make_recipe(*SHORT, *changes)


def test_after_the_last_epoch_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make(make_recipe, *SELDOM, "eval.every=end"), tmp_path)
    assert steps(tmp_path) == [24]


def test_after_the_best_ones_too(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make(make_recipe, *SELDOM, "eval.select=best"), tmp_path)
    record = read(tmp_path / "metrics.json")
    selected = record["selected"]["step"] if "selected" in record else None
    best, expected = None, []
    for entry in record["epochs"]:
        if best is None or entry["metrics"]["accuracy"] > best:
            best = entry["metrics"]["accuracy"]
            expected.append(entry["step"])
    assert steps(tmp_path) == sorted({*expected, 24})
    assert selected in (None, expected[-1])


@pytest.mark.parametrize("every", ["end", "epoch"])
def test_a_run_that_was_cut_goes_on(every: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make(make_recipe, "save.every_epoch=false", "save.every_steps=5", f"eval.every={every}")
    train(recipe, tmp_path / "straight")
    cut(recipe, tmp_path / "cut", step=14)
    train(recipe, tmp_path / "cut", resume=True)
    assert_equal_runs(tmp_path / "cut", tmp_path / "straight")
