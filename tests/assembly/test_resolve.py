"""Keys that must fit the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.assembly.resolve import resolve, selecting_metric
from dora_cli.errors import CheckpointError, RecipeError
from dora_cli.recipe import dump_recipe, parse_recipe
from dora_cli.tasks import get_task

GLUE = "task: glue/mrpc\nmodel: {name: m}\n"
E2E = "task: e2e\nmodel: {name: m}\n"


def test_a_task_that_generates_gets_its_decoding_and_the_recipe_reads_back() -> None:
    recipe, task = resolve(parse_recipe(E2E))
    assert recipe.decode is not None
    assert (recipe.decode.split, recipe.decode.beams) == (task.decoded_split, 10)  # type: ignore[union-attr]
    assert resolve(parse_recipe(dump_recipe(recipe)))[0] == recipe
    given, _ = resolve(parse_recipe(E2E + "decode: {split: validation, beams: 2}"))
    assert given.decode is not None
    assert (given.decode.split, given.decode.beams) == ("validation", 2)


def test_a_classification_is_left_as_it_is() -> None:
    recipe = parse_recipe(GLUE)
    assert resolve(recipe)[0] == recipe


FEDERATED = GLUE + "method: {name: lora}\n"


@pytest.mark.parametrize(
    ("section", "alpha", "residual"),
    [
        ("{}", None, 0.01),
        ("{split: dirichlet}", 0.3, 0.01),
        ("{split: dirichlet, alpha: 1, residual: 0}", 1.0, 0.0),
        ("{aggregation: exact}", None, None),
    ],
)
def test_a_federated_recipe_says_all_and_reads_back(section: str, alpha: float | None, residual: float | None) -> None:
    recipe, _ = resolve(parse_recipe(f"{FEDERATED}federated: {section}", overrides=["federated.rounds=3"]))
    assert recipe.federated is not None
    assert (recipe.federated.alpha, recipe.federated.residual) == (alpha, residual)
    assert recipe.train.max_steps == 3 * 50
    assert resolve(parse_recipe(dump_recipe(recipe)))[0] == recipe


@pytest.mark.parametrize("task", ["glue/rte", "classification"])
def test_what_has_classes_can_be_parted_by_them(task: str) -> None:
    source = "files, path: x" if task == "classification" else "hub"
    text = f"task: {task}\nmodel: {{name: m}}\nmethod: {{name: lora}}\ndata: {{source: {source}}}"
    recipe = parse_recipe(f"{text}\nfederated: {{split: dirichlet}}")
    assert get_task(task).problems(recipe) == []


def test_ranks_of_a_run_that_is_not_there_are_said_at_their_key(tmp_path: Path) -> None:
    recipe = parse_recipe(GLUE + f"method: {{name: lora, ranks_from: {tmp_path / 'gone'}}}")
    with pytest.raises(CheckpointError, match=r"^method\.ranks_from: .*gone"):
        resolve(recipe)


def test_what_selects_an_epoch() -> None:
    assert selecting_metric(*resolve(parse_recipe(GLUE))) == "accuracy"
    assert selecting_metric(*resolve(parse_recipe(GLUE + "eval: {metric: f1}"))) == "f1"
    assert selecting_metric(*resolve(parse_recipe(E2E))) == "loss"
    assert selecting_metric(*resolve(parse_recipe(E2E + "eval: {metric: greedy_bleu}"))) == "greedy_bleu"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GLUE + "decode: {beams: 2}", ["decode: glue/mrpc generates no text; remove the section"]),
        (GLUE + "eval: {metric: acuracy}", ["eval.metric", "'acuracy'", "accuracy, f1", "did you mean accuracy?"]),
        (
            "task: glue/stsb\nmodel: {name: m}\ntrain: {label_smoothing: 0.1}",
            ["train.label_smoothing: is 0.1", "a number", "set it to 0"],
        ),
        (E2E + "decode: {split: tset}", ["decode.split", "'tset'", "train, validation, test"]),
        (
            E2E + "method: {name: head}",
            ["method.name: head", "model of e2e", "dora"],
        ),
        (E2E + "data: {source: files, path: x, labels: [a, b]}", ["data.labels", "references"]),
        (
            E2E + "eval: {metric: greedy_bleu}\ndecode: {epoch_samples: 0}",
            ["eval.metric: greedy_bleu", "decode.epoch_samples is 0"],
        ),
        (
            E2E + "method: {name: lora}\nfederated: {split: dirichlet}",
            ["federated.split: dirichlet", "e2e has none", "iid"],
        ),
        (
            "task: glue/stsb\nmodel: {name: m}\nmethod: {name: lora}\nfederated: {split: dirichlet}",
            ["federated.split: dirichlet", "glue/stsb"],
        ),
        (E2E + "eval: {metric: bleu}", ["eval.metric", "'bleu'", "greedy_bleu"]),
    ],
)
def test_keys_that_mean_nothing_to_the_task_are_refused(text: str, says: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(parse_recipe(text))
    for words in says:
        assert words in str(caught.value)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(parse_recipe(GLUE + "decode: {beams: 2}\neval: {metric: bleu}"))
    assert len(caught.value.problems) == 2
