"""Whole runs of plain LoRA: the loop, records, exports and reports take it as they take DoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dora_cli import dump_recipe, evaluate, load_recipe, train
from dora_cli.errors import CheckpointError, ProjectionError
from dora_cli.export.saved import export_saved
from dora_cli.recipe import LoraMethod, Recipe
from tests.commands.conftest import dora
from tests.runs.test_resume import Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.test_run import STEPS, largest_difference, lines, read

LORA = "method={name: lora, rank: 2, dropout: 0.2, ranks: {'*.query': 3, '*.key': 0}, learning_rate_ratio: 4}"
RANKS = 3 + 0 + 4 * 2  # of one block: query, key; value, attention output, both FFN maps
PARAMETERS = 3 * 32 + 2 * (2 * 32 + 2 * 48)
HEAD = 16 * 16 + 16 + 2 * 16 + 2
SHORT = ("data.max_train_samples=46", "data.max_eval_samples=16", "train.batch_size=4", "train.gradient_accumulation=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe(LORA, *SHORT, "save.every_steps=1")


@pytest.fixture
def run(recipe: Recipe, runs: Runs) -> Path:
    """A finished run; made once."""
    return runs.straight(recipe)


def test_the_records_say_what_was_trained(run: Path) -> None:
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    assert metrics["method"] == "lora"
    assert metrics["budget"] == {
        "start_components": RANKS,
        "final_components": RANKS,
        "live_components": RANKS,
        "trainable_parameters_start": PARAMETERS + HEAD,
        "trainable_parameters_final": PARAMETERS + HEAD,
        "adapter_parameters_final": PARAMETERS,
        "adapter_bytes": 4 * PARAMETERS,
    }
    assert {epoch["phase"] for epoch in metrics["epochs"]} == {"training"}
    assert [layer["rank"] for layer in ranks["layers"]] == [3, 0, 2, 2, 2, 2]
    assert (ranks["history"], ranks["phases"]) == ([], [{"name": "training", "first": 1, "last": STEPS}])
    losses = [entry["loss"] for entry in lines(run / "log.jsonl") if entry["type"] == "train"]
    assert losses[-1] < losses[0]


def test_evaluation_is_identical(run: Path) -> None:
    assert evaluate(run)["identical"] is True


@pytest.mark.parametrize("step", [1, 7, 18, STEPS])
def test_a_cut_run_goes_on_as_if_nothing_had_happened(recipe: Recipe, runs: Runs, tmp_path: Path, step: int) -> None:
    """With dropout, accumulation and two rates."""
    runs.cut(recipe, tmp_path / "run", step=step)
    if step == 1:  # nothing was saved yet
        with pytest.raises(CheckpointError, match="no checkpoint"):
            train(recipe, tmp_path / "run", resume=True)
        return
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_accumulation_equals_one_large_batch(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """1 x 16 and 4 x 4; the last group of an epoch is smaller."""
    common = (LORA, "method.dropout=0", "data.max_train_samples=51", "data.max_eval_samples=16", "train.epochs=2")
    train(make_recipe("train.batch_size=16", *common), tmp_path / "one")
    train(make_recipe("train.batch_size=4", "train.gradient_accumulation=4", *common), tmp_path / "parts")
    assert largest_difference(tmp_path / "one" / "adapter", tmp_path / "parts" / "adapter") < 2e-6


def test_ranks_from_a_run_of_dora(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """They stand in the new run's recipe by name; the other run is not needed any more."""
    train(make_recipe(*SHORT, "train.epochs=2"), tmp_path / "dora")
    found = {layer["name"]: layer["rank"] for layer in read(tmp_path / "dora" / "ranks.json")["layers"]}
    assert len(set(found.values())) > 1
    wanted = make_recipe(f"method={{name: lora, ranks_from: {tmp_path / 'dora'}}}", *SHORT, "train.epochs=1")
    train(wanted, tmp_path / "lora")
    assert {layer["name"]: layer["rank"] for layer in read(tmp_path / "lora" / "ranks.json")["layers"]} == found
    (tmp_path / "dora").rename(tmp_path / "gone")
    resolved = load_recipe(tmp_path / "lora" / "recipe.yaml")
    assert isinstance(resolved.method, LoraMethod)
    assert (resolved.method.ranks, resolved.method.ranks_from) == (found, None)
    assert evaluate(tmp_path / "lora")["identical"] is True
    shuffled = resolved.model_copy(update={"method": resolved.method.model_copy(update={"ranks_shuffle": 1})})
    train(shuffled, tmp_path / "shuffled")
    ranks = {layer["name"]: layer["rank"] for layer in read(tmp_path / "shuffled" / "ranks.json")["layers"]}
    assert ranks != found
    assert sorted(ranks.values()) == sorted(found.values())


def test_ranks_from_a_run_that_has_none(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        train(make_recipe(f"method={{name: lora, ranks_from: {tmp_path / 'nowhere'}}}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pattern_that_fits_none_leaves_no_run_behind(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match=r"method\.ranks: 'q_proj' fits none"):
        train(make_recipe("method={name: lora, ranks: {q_proj: 3}}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("format", ["peft", "merged"])
def test_exports_agree_with_the_run(run: Path, tmp_path: Path, format: str) -> None:
    found = export_saved(run, tmp_path / format, format=format)
    assert found.agreement.difference < 1e-5
    record = json.loads((tmp_path / format / "dora_export.json").read_text())
    assert record["live_components"] == RANKS


def test_commands_that_read_a_run(run: Path, recipe: Recipe, tmp_path: Path) -> None:
    table = dora("ranks", run)
    assert (table.code, table.err) == (0, "")
    assert f"\n{RANKS} components, " in table.out
    report = dora("report", run, "--output", tmp_path / "report.html")
    assert report.code == 0, report.err
    assert "lora" in (tmp_path / "report.html").read_text()
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    ahead = dora("train", tmp_path / "recipe.yaml", "--dry-run")
    assert (ahead.code, ahead.err) == (0, "")
    assert f"  components  {RANKS} in 5 projections\n" in ahead.out
    assert f"  adapter      {PARAMETERS:,}\n" in ahead.out
    unknown = dora("train", tmp_path / "recipe.yaml", "--dry-run", "--set", "model.name=some/model")
    assert (unknown.code, unknown.err) == (0, ""), "patterns of ranks are no obstacle where the model is out of reach"
