"""What is looked up before PyTorch is loaded; a hub that does not answer is no obstacle where it is not needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from dora_cli.assembly.reach import check_reach
from dora_cli.errors import DataError, DoraError, ModelError, RecipeError
from dora_cli.models import ModelUnreachableError
from dora_cli.recipe import Recipe, parse_recipe

MODEL = "nobody/nothing"
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the hub was asked for; it never answers, and its caches are empty."""
    questions: list[str] = []

    def question(self: object, name: str, **_: object) -> Any:
        questions.append(name)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", question)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", question)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return questions


def recipe(model: str = "builtin:tiny-encoder", **data: Any) -> Recipe:
    return parse_recipe(
        json.dumps({"task": "glue/rte", "model": {"name": model}, "data": data or {"source": "builtin"}})
    )


def cache_model(tmp_path: Path) -> None:
    """Leaves the model as a download would."""
    folder = tmp_path / "hub" / f"models--{MODEL.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text("{}")


def test_both_are_named_and_the_hub_is_asked_once(asked: list[str]) -> None:
    with pytest.raises(DoraError) as caught:
        check_reach(recipe(MODEL, source="hub"))
    for name in ("nyu-mll/glue (rte), split train", repr(MODEL)):
        assert name in str(caught.value)
    assert asked == ["nyu-mll/glue"]


def test_one_that_is_missing_keeps_its_kind() -> None:
    with pytest.raises(ModelUnreachableError):
        check_reach(recipe(MODEL))
    with pytest.raises(DataError):
        check_reach(recipe(source="hub"))


def test_what_is_here_is_not_asked_for(asked: list[str], tmp_path: Path) -> None:
    check_reach(recipe())
    check_reach(recipe(source="files", path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    check_reach(recipe(str(tmp_path)))
    cache_model(tmp_path)
    check_reach(recipe(MODEL))
    assert asked == []


@pytest.mark.parametrize(
    "folder", ["hub/datasets--nyu-mll--glue", "datasets/nyu-mll___glue", "datasets/Any_GLUE-spelling"]
)
def test_data_that_a_cache_may_hold_are_left_to_the_library(folder: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    check_reach(recipe(source="hub"))
    assert asked == []
    with pytest.raises(ModelUnreachableError):  # a model is looked up exactly
        check_reach(recipe(MODEL, source="hub"))


def test_other_data_in_the_caches_are_no_help(tmp_path: Path) -> None:
    for folder in ("hub/datasets--tuetschek--e2e_nlg", "hub/models--any", "datasets/json"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError):
        check_reach(recipe(source="hub"))


def test_a_cache_that_cannot_be_listed_is_the_librarys_to_explain(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "datasets").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    check_reach(recipe(source="hub"))
    assert asked == []


def test_a_hub_that_answers_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> Any:
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
    check_reach(recipe(MODEL, source="hub"))


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda: recipe("builtin:no-such"), ModelError),
        (lambda: recipe("./no-such-folder"), ModelError),
        (lambda: recipe(MODEL).model_copy(update={"task": "glue/no-such"}), RecipeError),
    ],
)
def test_what_is_wrong_without_a_hub_is_said_at_once(wrong: Callable[[], Recipe], kind: type[DoraError]) -> None:
    with pytest.raises(kind) as caught:
        check_reach(wrong())
    assert "no-such" in str(caught.value)
    assert not isinstance(caught.value, ModelUnreachableError)


def test_other_models_that_a_method_names_are_looked_up_too() -> None:
    with pytest.raises(ModelError, match=f"the reference model '{MODEL}'"):
        check_reach(
            parse_recipe(
                "task: glue/rte\nmodel: {name: builtin:tiny-encoder}\ndata: {source: builtin}\n"
                f"method: {{name: cora, models: [builtin:tiny-encoder, {MODEL}]}}\n"
            )
        )
