"""Which settings a first recipe gets, and what it says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.assembly.first_recipe import default_file, first_recipe
from dora_cli.data.builtin import builtin_tasks
from dora_cli.errors import ModelError, RecipeError
from dora_cli.recipe import LoraMethod, parse_recipe
from dora_cli.recipe.shipped_recipes import shipped_recipes


@pytest.mark.parametrize("task", builtin_tasks())
def test_without_a_model_it_is_the_published_recipe(task: str) -> None:
    made = first_recipe(task)
    name = task if task.startswith("glue/") else "e2e/gpt2-medium"
    assert parse_recipe(made.text) == shipped_recipes()[name]
    assert f"configs/{name}.yaml, whose comments say more." in made.text
    assert "another model" not in made.text
    assert made.unchecked is None


@pytest.mark.parametrize(
    ("task", "model", "settings"),
    [
        ("glue/rte", "FacebookAI/roberta-base", "glue/rte"),
        ("glue/rte", "microsoft/deberta-v3-base", "glue/rte"),
        ("glue/rte", "builtin:tiny-encoder", "glue/rte"),
        ("glue/sst2", "builtin:tiny-encoder", "demo/sst2"),
        ("glue/sst2", "builtin:tiny-decoder", "demo/sst2"),
        ("e2e", "openai-community/gpt2", "e2e/gpt2"),
        ("e2e", "HuggingFaceTB/SmolLM2-135M", "e2e/smollm2-135m"),
        ("e2e", "google-t5/t5-small", "e2e/bart-base"),
        ("e2e", "EleutherAI/pythia-160m", "e2e/gpt2-medium"),
        ("e2e", "nobody/nothing", "e2e/gpt2-medium"),
        ("e2e", "builtin:tiny-decoder", "demo/e2e"),
        ("e2e", "builtin:tiny-seq2seq", "demo/e2e"),
    ],
)
def test_the_nearest_settings(task: str, model: str, settings: str) -> None:
    made = first_recipe(task, model)
    recipe, found = parse_recipe(made.text), shipped_recipes()[settings]
    assert (recipe.task, recipe.model.name) == (task, model)
    assert recipe.model_copy(update={"model": found.model}) == found
    assert f"configs/{settings}.yaml" in made.text
    assert (f"They are for {found.model.name}: for another model" in made.text) == (model != found.model.name)
    assert made.unchecked == ("nobody/nothing" if model == "nobody/nothing" else None)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_task_of_own_data_gets_defaults(task: str) -> None:
    recipe = parse_recipe(first_recipe(task).text)
    assert (recipe.task, recipe.data.source, recipe.data.path) == (task, "files", "data")
    assert recipe.model.name == "FacebookAI/roberta-base"
    assert parse_recipe(first_recipe(task, "builtin:tiny-encoder").text).model.name == "builtin:tiny-encoder"


def test_the_heading() -> None:
    lines = first_recipe("glue/mnli", file="my recipes/mnli.yaml").text.splitlines()
    assert lines[0].startswith("# DoRA, ")
    assert lines[0].endswith(" on glue/mnli with FacebookAI/roberta-base")
    assert lines[2].startswith("#     dora train 'my recipes/mnli.yaml' --dry-run ")
    assert (
        "# Data: 392,702 examples to train on, 9,815 (validation_matched) and 9,832 (validation_mismatched) to "
        "evaluate on. What selects the epoch: accuracy." in lines
    )
    assert "#     dora train mnli.yaml --dry-run " in first_recipe("glue/mnli").text
    assert "# Data: generated, in place of the task's own." in first_recipe("e2e", "builtin:tiny-decoder").text


def test_a_folder_with_a_strange_name(tiny_model: Path, tmp_path: Path) -> None:
    strange = tmp_path / "a: b # c\nd"
    strange.symlink_to(tiny_model)
    made = first_recipe("glue/rte", str(strange))
    assert parse_recipe(made.text).model.name == str(strange)
    assert made.text.splitlines()[0].endswith(f"with {str(strange)!r}")


def test_the_default_file() -> None:
    assert (default_file("glue/rte"), default_file("e2e")) == ("rte.yaml", "e2e.yaml")


def test_what_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no task 'glue/rt' \(nearest: glue/rte\)"):
        first_recipe("glue/rt")
    with pytest.raises(ModelError, match="generate"):
        first_recipe("e2e", "builtin:tiny-encoder")


@pytest.mark.parametrize("task", ["glue/rte", "e2e"])
def test_another_method_takes_its_defaults(task: str) -> None:
    made = first_recipe(task, method="lora")
    recipe, published = parse_recipe(made.text), parse_recipe(first_recipe(task).text)
    if recipe.method == LoraMethod():  # nothing is published
        assert recipe.model_copy(update={"method": published.method}) == published
        assert "of the method its defaults, since none are published for it here." in made.text
        assert "found with dora: try other values of train.learning_rate first." in made.text
    assert made.text.startswith("# LoRA, ")
    assert f" on {task} with " in made.text.splitlines()[0]
    assert "learning rate of B over that of A" in " ".join(made.text.replace("#", "").split())


def test_methods_that_are_none() -> None:
    with pytest.raises(RecipeError, match=r"--method loar: there is no such method.*dora, lora.*did you mean lora"):
        first_recipe("glue/rte", method="loar")
    with pytest.raises(RecipeError, match=r"^method\.name: head "):
        first_recipe("e2e", method="head")


@pytest.mark.parametrize("task", ["glue/cola", "glue/sst2"])
def test_clients_are_no_part_of_a_first_recipe(task: str) -> None:
    """Though a shipped recipe of LoRA for the task has some."""
    shipped = [recipe for recipe in shipped_recipes().values() if recipe.task == task]
    assert any(recipe.federated is not None for recipe in shipped)
    assert parse_recipe(first_recipe(task, method="lora").text).federated is None
