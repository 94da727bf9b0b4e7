"""What runs of one process share: the same as if each had made it, and no longer than files stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dora_cli.assembly.build import AdaptedModel, adapt, load_base, make_method
from dora_cli.assembly.data import load_data
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.warm import Warm
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.tasks import Task
from dora_cli.training.run import train
from tests.runs.test_resume import assert_equal_runs
from tests.training.conftest import MakeRecipe

TEXTS = [("it is good .", "yes"), ("it is bad .", "no"), ("the acting is nice .", "yes"), ("a dull film .", "no")]


@pytest.fixture
def own(tmp_path: Path, tiny_model: Path) -> Recipe:
    """A recipe on a file of eight rows."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation"):
        rows = "".join(f"{text},{label}\n" for text, label in TEXTS * 2)
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
    return parse_recipe(f"""
        task: classification
        model: {{name: {tiny_model}}}
        data: {{source: files, path: {folder}}}
        method: {{name: lora, rank: 1}}
        train: {{epochs: 1, batch_size: 4, device: cpu}}
    """)


def adapted(recipe: Recipe, task: Task) -> AdaptedModel:
    base = load_base(recipe, task)
    return adapt(recipe, task, base, make_method(recipe), torch.device("cpu"), total_steps=8)


def test_examples_are_read_once(own: Recipe) -> None:
    warm, (recipe, task) = Warm(), resolve(own)
    data = warm.load_data(recipe, task)
    assert data == load_data(recipe, task)
    again = own.model_copy(update={"train": own.train.model_copy(update={"seed": 7, "learning_rate": 1e-5})})
    assert warm.load_data(*resolve(again)) is data


def test_a_file_that_has_changed_is_read_again(own: Recipe) -> None:
    warm, (recipe, task) = Warm(), resolve(own)
    before = warm.load_data(recipe, task)
    assert recipe.data.path is not None
    with open(Path(recipe.data.path) / "train.csv", "a") as file:
        file.write("so so .,no\n")
    after = warm.load_data(recipe, task)
    assert len(after.training) == len(before.training) + 1
    assert after == load_data(recipe, task)


@pytest.mark.parametrize("change", ["data.max_train_samples=4", "data.max_eval_samples=4", "eval.held_out=0.3"])
def test_other_examples_are_others(own: Recipe, change: str, make_recipe: MakeRecipe) -> None:
    warm = Warm()
    one, other = make_recipe("data.max_train_samples=null"), make_recipe("data.max_train_samples=null", change)
    first, second = warm.load_data(*resolve(one)), warm.load_data(*resolve(other))
    assert first == load_data(*resolve(one))
    assert second == load_data(*resolve(other))
    assert first != second


def test_other_parts_are_others(make_recipe: MakeRecipe) -> None:
    changes = ("task=glue/mnli", "data.max_train_samples=null", "eval.held_out=0.3")
    warm, found = Warm(), []
    for way in ("text", "rows"):
        recipe, task = resolve(make_recipe(*changes, f"eval.held_out_by={way}"))
        found.append(warm.load_data(recipe, task))
        assert found[-1] == load_data(recipe, task)
        assert warm.load_data(recipe, task) is found[-1], "texts are held against each other once"
    assert found[0] != found[1]


def test_tokens_are_made_once_for_a_model_and_a_length(own: Recipe) -> None:
    warm, (recipe, task) = Warm(), resolve(own)
    data = warm.load_data(recipe, task)
    model = adapted(recipe, task)
    tokens = warm.encode(recipe, task, data.training, model)
    assert warm.encode(recipe, task, data.training, adapted(recipe, task)) is tokens
    short = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 4})})
    assert warm.encode(short, task, data.training, model).lengths.max() == 4
    assert tokens.lengths.max() > 4
    tokenizer = Path(recipe.model.name) / "tokenizer.json"
    text = tokenizer.read_text()
    try:
        tokenizer.write_text(text + "\n")
        assert warm.encode(recipe, task, data.training, model) is not tokens
    finally:
        tokenizer.write_text(text)


def test_no_more_is_kept_than_was_asked_for(make_recipe: MakeRecipe) -> None:
    warm, nothing = Warm(most=2), Warm(most=0)
    recipes = [resolve(make_recipe(f"data.max_train_samples={count}")) for count in (10, 11, 12)]
    first, second, _ = (warm.load_data(*recipe) for recipe in recipes)
    assert warm.load_data(*recipes[1]) is second
    assert warm.load_data(*recipes[0]) is not first
    assert nothing.load_data(*recipes[0]) is not nothing.load_data(*recipes[0])


def test_a_run_on_what_others_left_equals_one_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    warm, changes = Warm(), ("train.epochs=2", "method.dropout=0.1")
    train(make_recipe(*changes, "train.seed=5"), tmp_path / "before", warm=warm)
    train(make_recipe(*changes), tmp_path / "warm", warm=warm)
    train(make_recipe(*changes), tmp_path / "alone")
    assert_equal_runs(tmp_path / "warm", tmp_path / "alone")
    one, two = (RunRecords(tmp_path / name).read_environment() for name in ("warm", "alone"))
    assert one["data"] == two["data"]
