"""Damaged records of a run: which file, and what to do about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dora_cli import evaluate
from dora_cli.assembly.restore import SavedRun, read_recipe
from dora_cli.errors import CheckpointError, RecipeError
from dora_cli.export.saved import export_saved
from dora_cli.library.prediction import predict_saved

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
        with pytest.raises(
            RecipeError,
            match=r"^overrides: must be a list of key=value texts, got the text "
            r"'data\.path=x'",
        ):
            call()
