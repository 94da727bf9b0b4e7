"""A run whose method starts from another base model: that one is needed once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dora_cli import evaluate, load_adapter, load_recipe, train
from dora_cli.errors import ModelError
from tests.runs.test_resume import assert_equal_runs, cut
from tests.training.conftest import MakeRecipe


def test_it_goes_on_and_is_evaluated_and_loaded_without_the_other_model(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That was named by a path relative to where the run was begun."""
    other = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shutil.copytree(tiny_model, tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(
        "method={name: cora, rank: 2, models: [other], aggregate: differences, targets: [attention]}",
        "data.max_train_samples=46", "data.max_eval_samples=16", "save.every_steps=4", "train.epochs=2",
    )  # fmt: skip
    train(recipe, tmp_path / "straight")
    cut(recipe, tmp_path / "run", step=4)
    (tmp_path / "other").rename(tmp_path / "gone")
    stored = load_recipe(tmp_path / "run" / "recipe.yaml")
    train(stored, tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")
    assert evaluate(tmp_path / "run")["identical"] is True
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    state = load_adapter(tmp_path / "run", model).state_dict()
    assert all(tensor.any() for key, tensor in state.items() if key.startswith("basis."))
    with pytest.raises(ModelError, match="the reference model"):
        train(stored, tmp_path / "another")
