"""Options of DoRA in whole runs: cut and gone on with, in two processes, evaluated, exported and shown.

The settings together take every value of every option.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import dora_cli
from dora_cli import evaluate, load_adapter, load_recipe, save_adapter, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.restore import restore
from dora_cli.export.saved import export_saved
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.training.step import TrainingStep
from tests.commands.conftest import dora
from tests.runs.test_resume import Cut, Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.pairs import train_recipes_in_two
from tests.training.test_run import largest_difference, read

SETTINGS = {
    "svd-of-outputs": (
        "start: inputs, gates: fixed, rotate: input, budget: parameters, events: 3, scaling: final, "
        "learning_rate_ratio: 2, gradients: riemannian, damping: 0.05, dem_weight: 0, targets: [attention, ffn]"
    ),
    "svd-of-weights": "rotate: weight, start: lora, gate_rate: 0.5, events: 2, dem_until: end, flatness: 0.1",
    "norm": "start: unit, score: norm, events: 3, scaling: root, min_rank: 1, max_rank: 3, compact: false",
    "output": "start: unit, score: output, prune_interval: 2, curve: adalora",
    "taylor": "preset: auto, score: taylor, prune_interval: 2, min_rank: 1",
    "fisher": (
        "start: gradient, calibration_examples: 10, gates: fixed, gradients: pro, score: fisher, curve: adalora, "
        "events: 4, max_rank: 4"
    ),
    "kfac": "start: lora, score: kfac, gate_rate: 3, learning_rate_ratio: 0.5, events: 2, dem_scale: paper",
    "guard": "start: lora, gates: fixed, score: taylor, guard: true, refit: true, events: 2",
}
"""What each asks for, beside what all have."""

COMMON = (
    "data.max_train_samples=46",
    "data.max_eval_samples=16",
    "train.batch_size=8",
    "train.epochs=3",
    "save.every_steps=1",
)
EVERY = pytest.mark.parametrize("name", SETTINGS)

WARMUP, FREEZE = 2, 8  # of 18 steps


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory, copied=False)


def recipe_of(make_recipe: MakeRecipe, name: str, *overrides: str) -> Recipe:
    settings = {"rank": "2", "start_rank": "4", "dropout": "0.2", "targets": "[attention]"}
    settings |= dict(part.split(": ", 1) for part in _parts(SETTINGS[name]))
    method = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return make_recipe(f"method={{name: dora, {method}}}", *COMMON, *overrides)


def _parts(settings: str) -> list[str]:
    """Splits at commas outside of brackets."""
    parts = [""]
    for part in settings.split(", "):
        if parts[-1].count("[") > parts[-1].count("]"):
            parts[-1] += f", {part}"
        else:
            parts.append(part)
    return parts[1:]


def test_every_value_of_every_option_is_here(make_recipe: MakeRecipe) -> None:
    sections = [recipe_of(make_recipe, name).method for name in SETTINGS]
    for key, values in {
        "preset": {"published", "auto"},
        "start": {"published", "unit", "lora", "gradient", "inputs"},
        "gates": {"trained", "fixed"},
        "gradients": {"plain", "pro", "riemannian"},
        "scaling": {"start", "root", "final", "none"},
        "score": {"published", "norm", "output", "taylor", "fisher", "kfac"},
        "rotate": {"none", "weight", "input"},
        "budget": {"components", "parameters"},
        "curve": {"published", "adalora"},
        "guard": {True, False},
        "refit": {True, False},
        "compact": {True, False},
    }.items():
        assert {getattr(section, key) for section in (*sections, DoraMethod())} == values


@EVERY
def test_planned_trained_and_evaluated(make_recipe: MakeRecipe, runs: Runs, name: str) -> None:
    recipe = recipe_of(make_recipe, name)
    ahead, run = dry_run(recipe), runs.straight(recipe)
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    assert [(phase["name"], phase["first"], phase["last"]) for phase in ranks["phases"]] == list(ahead.phases)
    assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"]
    assert evaluate(run)["identical"] is True
    assert ahead.parameters is not None
    assert ahead.schedule["events"] == len(ranks["history"])
    assert sum(layer["rank"] for layer in ranks["layers"]) == metrics["budget"]["live_components"]


@EVERY
def test_cut_again_and_again_and_gone_on_with(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str) -> None:
    """From a checkpoint of warm-up, of an event and of the freeze; each time it goes on until the next cut. The step
    that a cut falls into is lost: the checkpoint is that of the one before.
    """
    recipe, run = recipe_of(make_recipe, name), tmp_path / "run"
    event = read(runs.straight(recipe) / "ranks.json")["history"][0]["step"]
    assert WARMUP <= event < FREEZE
    runs.cut_again_and_again(recipe, run, [step + 1 for step in sorted({2, event, FREEZE})])
    train(recipe, run, resume=True)
    assert_equal_runs(runs.straight(recipe), run)


def test_two_processes_train_what_one_trains(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    common = ("data.max_train_samples=51", "train.epochs=2", "save.every_steps=null", "method.dropout=0")
    parts = ("train.batch_size=4", "train.gradient_accumulation=2")
    notes = train_recipes_in_two(
        {tmp_path / name / "2": recipe_of(make_recipe, name, *common, *parts) for name in SETTINGS}
    )
    for name in SETTINGS:
        one, two = tmp_path / name / "1", tmp_path / name / "2"
        train(recipe_of(make_recipe, name, *common, "train.batch_size=16"), one)
        assert any("the guard takes" in note for note in notes[two]) == (name == "guard")
        assert read(two / "environment.json")["processes"] == 2
        mine, theirs = (read(run / "ranks.json") for run in (one, two))
        assert mine["history"] == theirs["history"], name
        assert [layer["rank"] for layer in mine["layers"]] == [layer["rank"] for layer in theirs["layers"]], name
        # What is small turns with the rounding of what is large, by the ratio of both: a gradient's singular vectors,
        # and those of an output that inputs hardly reach. How much that is differs between kinds of processors.
        turned = {"start: gradient": 3e-3, "rotate: input": 1e-3}
        within = max((bound for key, bound in turned.items() if key in SETTINGS[name]), default=1e-5)
        assert largest_difference(one / "adapter", two / "adapter") < within, name


@EVERY
def test_the_budget_is_met(make_recipe: MakeRecipe, runs: Runs, name: str) -> None:
    """In its own unit, between the bounds of ranks; what the record says of it is that."""
    recipe = recipe_of(make_recipe, name)
    section, run = recipe.method, runs.straight(recipe)
    assert isinstance(section, DoraMethod)
    ranks, budget = read(run / "ranks.json"), read(run / "metrics.json")["budget"]
    layers = ranks["layers"]
    costs = [sum(layer["shape"]) for layer in layers]
    assert budget["adapter_parameters_final"] == sum(
        cost * layer["rank"] for cost, layer in zip(costs, layers, strict=True)
    )
    if section.budget == "parameters":
        left = section.rank * sum(costs) - budget["adapter_parameters_final"]
        assert 0 <= left < max(costs)
        assert (ranks["counts"], budget["final_components"]) == ("parameters", None)
    else:
        assert "counts" not in ranks
        assert budget["live_components"] == budget["final_components"] == section.rank * len(layers)
    assert all(section.min_rank <= layer["rank"] <= (section.max_rank or 4) for layer in layers)
    gone_for_good = section.gates == "fixed" or section.rotate != "none"
    for layer in layers:
        assert ("live" in layer) == gone_for_good
        assert min(layer["scores"]) >= 0, "scores as what they are worth"


@EVERY
def test_shown(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    record = read(run / "ranks.json")
    table, scores, history = (dora("ranks", run, *options) for options in ((), ("--scores",), ("--history",)))
    assert (table.code, scores.code, history.code) == (0, 0, 0), scores.err
    assert record["score"] in re.sub(r"\s+", " ", scores.out)
    assert "stopped before" not in table.out
    assert json.loads(dora("ranks", run, "--json").out) == record
    assert dora("report", run, "--output", tmp_path / "report.html").code == 0
    page = (tmp_path / "report.html").read_text()
    assert record["score"].replace("'", "&#x27;") in page


@EVERY
def test_loaded_merged_and_exported_give_the_same_answers(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    trained = restore(run, (), lambda recipe, task: ()).adapted
    torch.manual_seed(0)
    batch = {"input_ids": torch.randint(5, 40, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.long)}
    base = load_recipe(run / "recipe.yaml").model.name

    def own_model() -> torch.nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)

    def answers(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(**batch).logits

    expected = answers(trained.model)
    own = own_model()
    before = answers(own)
    load_adapter(run, own)
    assert torch.equal(answers(own), expected)
    assert not torch.allclose(before, expected)
    save_adapter(own, tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's
        theirs = PeftModel.from_pretrained(own_model(), tmp_path / "saved")
    torch.testing.assert_close(answers(theirs), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answers(dora_cli.merge(own)), expected, rtol=1e-5, atol=1e-6)
    for format in ("peft", "merged"):
        assert export_saved(run, tmp_path / format, format=format).agreement.difference < 1e-5


def test_a_guard_says_which_ranks_it_takes(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    listener = Cut()  # at no step: for its notes
    train(recipe_of(make_recipe, "guard", "save.every_steps=null"), tmp_path / "run", listener=listener)
    (said,) = [note for note in listener.notes if "guard" in note]
    losses = [float(loss) for loss in re.findall(r"\d\.\d{4}", said)]
    record = read(tmp_path / "run" / "ranks.json")
    assert [event.get("remark") for event in record["history"]] == [None, said]
    shown = " ".join(dora("ranks", tmp_path / "run", "--history").out.split())
    assert f"step {FREEZE}: {said}" in shown
    ranks = [layer["rank"] for layer in record["layers"]]
    assert ("takes uniform ranks" in said) == (losses[0] >= losses[1]) == (ranks == [2] * len(ranks))


@EVERY
def test_a_freeze_whose_step_is_skipped_meets_the_budget(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The scores of the steps before it decide, and none of its own numbers gets into anything."""
    plain = TrainingStep.__call__

    def call(self: TrainingStep, step: int, *arguments: Any, **options: Any) -> Any:
        loss = self.loss
        if step == FREEZE:
            self.loss = lambda outputs, batch: loss(outputs, batch) * math.nan
        try:
            return plain(self, step, *arguments, **options)
        finally:
            self.loss = loss

    monkeypatch.setattr(TrainingStep, "__call__", call)
    recipe = recipe_of(make_recipe, name, "save.every_steps=null", "train.skip_nonfinite=1", "train.cuda_graph=off")
    found = train(recipe, tmp_path / "run").metrics
    assert recipe.method.name == "dora"
    if recipe.method.budget == "components":
        assert found["budget"]["live_components"] == found["budget"]["final_components"]
    assert all(epoch["train_loss"] > 0 for epoch in found["epochs"])
    layers = read(tmp_path / "run" / "ranks.json")["layers"]
    assert all(math.isfinite(score) for layer in layers for score in layer["scores"])
