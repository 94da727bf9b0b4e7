"""Options of DoRA in whole runs: cut and gone on with, in two processes, evaluated, exported and shown.

The settings together take every value of every option.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli import dump_recipe, evaluate, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods.dora import DoraMethod
from tests.runs.test_resume import Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.killing import Warm
from tests.training.test_run import largest_difference, read

SETTINGS = {
    "svd-of-outputs": (
        "start: lora, gates: fixed, rotate: input, budget: parameters, events: 3, scaling: final, "
        "learning_rate_ratio: 2, dem_weight: 0, targets: [attention, ffn]"
    ),
    "svd-of-weights": "rotate: weight, start: lora, gate_rate: 0.5, events: 2, dem_until: end, flatness: 0.1",
    "norm": "start: unit, score: norm, events: 3, scaling: root, min_rank: 1, max_rank: 3, compact: false",
    "output": "start: unit, score: output, prune_interval: 2, curve: adalora",
    "taylor": "start: unit, score: taylor, prune_interval: 2, budget: parameters, min_rank: 1",
    "fisher": "start: lora, gates: fixed, score: fisher, curve: adalora, events: 4, max_rank: 4",
    "kfac": "start: lora, score: kfac, gate_rate: 3, learning_rate_ratio: 0.5, events: 2, dem_scale: paper",
    "guard": "start: lora, gates: fixed, score: taylor, guard: true, events: 2",
}
"""What each asks for, beside what all have."""

COMMON = (
    "data.max_train_samples=46",
    "data.max_eval_samples=16",
    "train.batch_size=8",
    "save.every_steps=1",
)
EVERY = pytest.mark.parametrize("name", SETTINGS)

WARMUP, FREEZE, STEPS = 3, 11, 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


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
        "start": {"published", "unit", "lora"},
        "gates": {"trained", "fixed"},
        "scaling": {"start", "root", "final"},
        "score": {"published", "norm", "output", "taylor", "fisher", "kfac"},
        "rotate": {"none", "weight", "input"},
        "budget": {"components", "parameters"},
        "curve": {"published", "adalora"},
        "guard": {True, False},
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
@pytest.mark.parametrize("where", ["warm-up", "between", "event", "freeze", "final"])
def test_cut_anywhere_and_gone_on_with(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str, where: str
) -> None:
    recipe = recipe_of(make_recipe, name)
    first = read(runs.straight(recipe) / "ranks.json")["history"][0]["step"]
    step = {"warm-up": 2, "between": first + 1, "event": first, "freeze": FREEZE, "final": 15}[where]
    # the step of which the cut falls into is lost: the checkpoint is that of the one before
    runs.cut(recipe, tmp_path / "run", step=step + 1)
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_two_processes_train_what_one_trains(warm: Warm, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for name in SETTINGS:
        common = ("data.max_train_samples=51", "train.epochs=2", "save.every_steps=null", "method.dropout=0")
        train(recipe_of(make_recipe, name, *common, "train.batch_size=16"), tmp_path / name / "1")
        parts = ("train.batch_size=4", "train.gradient_accumulation=2")
        (tmp_path / name / "two.yaml").write_text(dump_recipe(recipe_of(make_recipe, name, *common, *parts)))
        command = ("train", str(tmp_path / name / "two.yaml"), "--output", str(tmp_path / name / "2"))
        for attempt in warm.run_together(*command, strikes=[None, None]):
            assert attempt.code == 0, attempt.output
        one, two = (read(tmp_path / name / number / "ranks.json") for number in "12")
        assert one["history"] == two["history"]
        assert [layer["rank"] for layer in one["layers"]] == [layer["rank"] for layer in two["layers"]]
        assert largest_difference(tmp_path / name / "1" / "adapter", tmp_path / name / "2" / "adapter") < 1e-5, name
