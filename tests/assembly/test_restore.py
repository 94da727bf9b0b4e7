"""Damaged records of a run: which file, and what to do about it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from dora_cli import evaluate, train
from dora_cli.assembly.restore import SavedRun, read_recipe
from dora_cli.errors import CheckpointError, RecipeError
from dora_cli.export.saved import export_saved
from dora_cli.library.prediction import predict_saved
from tests.training.conftest import MakeRecipe, make_recipe, tiny_model

__all__ = ["make_recipe", "tiny_model"]

RECIPE = "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\ndata: {source: builtin}\n"


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    return SavedRun(folder, folder / "adapter")


@pytest.mark.parametrize("text", ["task: [glue/sst2\n", "", RECIPE + "colour: red\n", RECIPE.replace("task", "tsak")])
def test_a_damaged_recipe_names_the_fix(run: SavedRun, text: str, tmp_path: Path) -> None:
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(text)
    for read in (
        lambda: read_recipe(run, ["data.path=x"]),
        lambda: evaluate(run.folder),
        lambda: export_saved(run.folder, tmp_path / "export"),
        lambda: predict_saved(run.folder),
    ):
        with pytest.raises(CheckpointError) as caught:
            read()
        *problems, fix = str(caught.value).splitlines()
        assert all(problem.startswith(str(recipe)) for problem in problems)
        assert fix == (
            f"{recipe} is damaged or was not written by dora: copy the run folder again if it was copied, "
            "or train again"
        )


def test_a_change_that_does_not_fit_is_no_damage(run: SavedRun) -> None:
    with pytest.raises(RecipeError, match=r"^--set eval\.batch_size=0: "):
        read_recipe(run, ["eval.batch_size=0"])


def test_a_damaged_environment_names_its_path(run: SavedRun) -> None:
    environment = run.folder / "environment.json"
    for content in ({}, [], {"model": 3}):
        environment.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=re.escape(f"{environment} is damaged")):
            run.base_fingerprint()


def test_a_lone_override_is_refused_everywhere(run: SavedRun, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("sentence\na film\n")
    for call in (
        lambda: evaluate(run.folder, overrides="data.path=x"),
        lambda: predict_saved(run.folder, file=own, overrides="data.path=x"),
        lambda: export_saved(run.folder, tmp_path / "export", overrides="data.path=x"),
    ):
        with pytest.raises(RecipeError, match=r"^overrides: .*'data\.path=x'"):
            call()


def test_what_is_no_run_is_said(run: SavedRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "manifest.json").touch()
    for seed in (2, 1):
        shutil.copytree(run.folder, tmp_path / "parent" / f"seed-{seed}")
    name = "name the run folder that dora train wrote (its --output)"
    for place, said in (
        ("nowhere", f"is not a folder; {name}"),
        ("run/recipe.yaml", f"is not a folder; {name}"),
        ("empty", f"holds no recipe.yaml; {name}"),
        ("alone", "lies outside a run folder, so its recipe.yaml is missing; name a checkpoint within a run"),
        ("parent", "holds runs of several seeds; name one of them: seed-1, seed-2"),
    ):
        with pytest.raises(CheckpointError) as caught:
            SavedRun.at(tmp_path / place)
        assert str(caught.value) == f"--checkpoint {tmp_path / place} {said}"


def test_a_run_without_its_adapter_says_what_to_do(run: SavedRun) -> None:
    with pytest.raises(CheckpointError) as caught:
        run.read_weights()
    assert str(caught.value) == (
        f"{run.folder} has no adapter, the selected weights: the run was stopped before an evaluation that counts; "
        "go on with it (dora train --resume), or name one of its checkpoints"
    )


def test_what_belongs_to_the_run_cannot_be_changed(run: SavedRun) -> None:
    said = r"^--set method\.rank: an evaluation can change .*data\.path.*; the rest of the recipe belongs to the run$"
    with pytest.raises(RecipeError, match=said):
        read_recipe(run, ["method.rank=3"])


def test_code_of_a_model_runs_only_when_the_caller_says_so(run: SavedRun) -> None:
    code = "model.trust_remote_code=true"
    with pytest.raises(RecipeError, match=f"^--set {code}: the run was made without code of its base model; leave it"):
        read_recipe(run, [code])
    stored = run.folder / "recipe.yaml"
    stored.write_text(RECIPE.replace("tiny-encoder", "tiny-encoder, trust_remote_code: true"))
    said = f"would run Python code that comes with the model.*say so here too: --set {code}"
    with pytest.raises(RecipeError, match=said):
        read_recipe(run, [])


def test_another_base_model_or_split_is_refused(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    train(make_recipe("train.max_steps=6"), tmp_path / "run")
    other = shutil.copytree(tiny_model, tmp_path / "other")
    model = AutoModelForMaskedLM.from_pretrained(other)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    model.save_pretrained(other)
    with pytest.raises(
        CheckpointError,
        match=rf"^the base model {other} is not the one this run was trained on \(fingerprint .*model\.name=",
    ):
        evaluate(tmp_path / "run", overrides=[f"model.name={other}"])
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    assert evaluate(tmp_path / "run", overrides=[f"model.name={moved}"])["identical"] is True
    with pytest.raises(RecipeError, match=r"^--split dev: glue/sst2 has train, validation, test$"):
        evaluate(tmp_path / "run", split="dev")
    with pytest.raises(
        RecipeError, match=r"^--split train-held-out: .* test \(the run held out no part.*eval\.held_out"
    ):
        evaluate(tmp_path / "run", split="train-held-out")
