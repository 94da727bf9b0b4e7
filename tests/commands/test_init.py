"""`dora init`: a recipe that loads and dry-runs, and the schema for editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dora_cli.data.builtin import builtin_tasks
from dora_cli.recipe import DoraMethod, dump_recipe, load_recipe, parse_recipe
from dora_cli.recipe.methods.dora import AUTO
from dora_cli.recipe.schema import TrainSection
from dora_cli.tasks import task_names
from tests.commands.conftest import Refuse, dora, process


@pytest.fixture(autouse=True)
def _empty_folder_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path.parent / "no-cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", builtin_tasks())
def test_the_recipe_of_every_task_loads_and_dry_runs(task: str) -> None:
    done = dora("init", task, "--output", "mine.yaml")
    assert (done.code, done.err) == (0, "")
    assert done.out == "mine.yaml written; see what it would do:  dora train mine.yaml --dry-run\n"
    assert load_recipe("mine.yaml").task == task
    done = dora("train", "mine.yaml", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert f"task: {task}\n" in done.out


@pytest.mark.parametrize(
    ("task", "model"),
    [("glue/sst2", "builtin:tiny-encoder"), ("e2e", "builtin:tiny-seq2seq"), ("glue/stsb", "builtin:tiny-decoder")],
)
def test_with_a_model(task: str, model: str) -> None:
    done = dora("init", task, "--model", model, "-o", "new/mine.yaml")
    assert (done.code, done.err) == (0, "")
    assert load_recipe("new/mine.yaml").model.name == model
    done = dora("train", "new/mine.yaml", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "\nParameters\n" in done.out


def test_with_a_method() -> None:
    done = dora("init", "glue/sst2", "-m", "builtin:tiny-encoder", "--method", "lora")
    assert done.code == 0
    assert parse_recipe(done.out).method.name == "lora"


def test_without_a_file_it_goes_to_stdout_and_writes_nothing(tmp_path: Path) -> None:
    done = process("init", "glue/rte", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert parse_recipe(done.out).task == "glue/rte"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    done = dora("init", "glue/rte", "-o", "mine.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("dora: error: --output mine.yaml ")
    assert "--overwrite" in done.err
    assert done.err.count("\n") == 1
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert dora("init", "--schema", "-o", "mine.yaml").code == 2
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert dora("init", "glue/rte", "-o", "mine.yaml", "--overwrite").code == 0
    assert load_recipe("mine.yaml").task == "glue/rte"


def test_a_model_that_nobody_knows_is_taken_with_a_note() -> None:
    done = dora("init", "e2e", "-m", "nobody/nothing")
    assert done.code == 0
    assert parse_recipe(done.out).model.name == "nobody/nothing"
    assert done.err == (
        "dora: note: 'nobody/nothing' is not in the local cache, so it was not checked whether it can do e2e; a dry "
        "run checks it\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["glue/rt"], ["'glue/rt'", "nearest: glue/rte"]),
        (["sst-2"], ["nearest: glue/sst2"]),
        (
            ["e2e", "-m", "builtin:tiny-encoder"],
            ["'builtin:tiny-encoder'", "generate", "decoder"],
        ),
        (["e2e", "-m", "FacebookAI/roberta-base"], ["'FacebookAI/roberta-base'", "generate"]),
        (["e2e", "-m", "builtin:tiny"], ["'builtin:tiny'", "builtin:tiny-decoder"]),
        (["e2e", "-m", "./nowhere"], ["folder './nowhere'"]),
        ([], ["which task?", "dora tasks"]),
        (["glue/rte", "--data", "x.csv"], ["--data", "glue/rte"]),
        (["classification", "--label", "x"], ["--data FILE"]),
        (["classification", "--data", "x.csv"], ["'x.csv'"]),
        (["glue/rte", "--schema"], ["leave TASK, --model and --method out"]),
        (["--schema", "-m", "x"], ["leave TASK, --model and --method out"]),
        (["--schema", "--method", "lora"], ["leave TASK, --model and --method out"]),
        (["glue/rte", "--method", "loar"], ["--method loar: ", "lora?"]),
        (["e2e", "--method", "head"], ["method.name: head ", "e2e"]),
        (["glue/rte", "--overwrite"], ["--overwrite needs"]),
        (["glue/rte", "-o", "."], ["--output . ", "folder"]),
        (["glue/rte", "-o", "/dev/null/x.yaml"], ["--output /dev/null/x.yaml "]),
    ],
)
def test_bad_input(arguments: list[str], says: list[str], refuses: Refuse) -> None:
    refuses("init", *arguments, says=says)


def test_the_schema() -> None:
    done = dora("init", "--schema")
    assert (done.code, done.err) == (0, "")
    schema = json.loads(done.out)
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["task"]["enum"] == list(task_names())
    import yaml

    check = Draft202012Validator(schema)
    made = yaml.safe_load(dump_recipe(parse_recipe(dora("init", "e2e").out)))
    assert check.is_valid(made)
    made["train"]["epoch"] = 3
    assert not check.is_valid(made)
    done = dora("init", "--schema", "-o", "recipe.schema.json")
    assert (done.code, done.out) == (0, "recipe.schema.json written\n")
    assert json.loads(Path("recipe.schema.json").read_text()) == schema


def test_a_dash_is_stdout(tmp_path: Path) -> None:
    done = dora("init", "glue/rte", "--output", "-")
    assert (done.code, done.err, list(tmp_path.iterdir())) == (0, "", [])
    assert parse_recipe(done.out).task == "glue/rte"


def test_data_of_ones_own(tmp_path: Path) -> None:
    """Semicolons, a gap, an id and a column too many: the recipe trains without a word of correction."""
    rows = "".join(f"{row};film {row};{'good' if row % 2 else 'bad'};{row % 5}\n" for row in range(1, 40))
    (tmp_path / "own.csv").write_text(f"id;review;verdict;stars\n{rows}40;;good;1\n")
    done = dora("init", "classification", "--data", "own.csv", "--label", "verdict", "-m", "builtin:tiny-encoder",
                "-o", "mine.yaml")  # fmt: skip
    assert done.code == 0, done.err
    assert all(line.startswith("dora: note: ") for line in done.err.splitlines())
    data = load_recipe("mine.yaml").data
    assert data.columns == {"text": "review", "label": "verdict"}
    assert (data.labels, data.separator, data.invalid, data.validation) == (("bad", "good"), "semicolon", "skip", 0.2)
    done = dora("train", "mine.yaml", "--dry-run")
    assert (done.code, done.err) == (0, "")
    done = dora("train", "mine.yaml", "--set", "train.max_steps=20", "--output", "run", "--quiet")
    assert done.code == 0, done.err
    done = dora("init", "regression", "--data", "own.csv", "-m", "builtin:tiny-encoder")
    assert parse_recipe(done.out).data.columns == {"text": "review", "label": "stars"}


def test_settings_of_our_own_are_for_data_of_ones_own(tmp_path: Path) -> None:
    """Tasks that have published settings keep those, and so do methods that have no settings of ours."""
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"film {row},{row % 2}\n" for row in range(40)))
    own = ("init", "classification", "--data", "own.csv", "-m", "builtin:tiny-encoder")
    for arguments in (own, ("init", "classification", "-m", "builtin:tiny-encoder")):
        found = parse_recipe(dora(*arguments).out)
        assert isinstance(found.method, DoraMethod)
        assert (found.method.preset, found.method.step_bound) == ("auto", AUTO["step_bound"])
        assert found.train.learning_rate == 5e-4
    published = parse_recipe(dora("init", "glue/rte").out).method
    assert isinstance(published, DoraMethod)
    assert (published.preset, published.step_bound) == ("published", None)
    other = parse_recipe(dora(*own, "--method", "lora").out)
    assert (other.method.name, other.train.learning_rate) == ("lora", TrainSection().learning_rate)
