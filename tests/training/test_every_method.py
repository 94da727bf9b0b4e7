"""Every method through everything that the product does with a method: what holds for one must hold for the next.

DoRA and LoRA have tests of their own for most of this, as has a method that a package brings.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import dora_cli
from dora_cli import dump_recipe, evaluate, load_adapter, load_recipe, save_adapter, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.restore import restore
from dora_cli.errors import ExportError, ModelError
from dora_cli.export.saved import export_saved
from dora_cli.methods import METHODS
from dora_cli.models.ahead import pass_in_vain
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods import METHODS as METHOD_SECTIONS
from dora_cli.recipe.methods import about
from dora_cli.training import step as step_module
from tests.commands.conftest import dora
from tests.runs.test_resume import Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.killing import Strike, Warm
from tests.training.pairs import train_recipes_in_two
from tests.training.test_run import largest_difference, read

SETTINGS = {
    "adalora": "rank: 2, dropout: 0.2, warmup_fraction: 0.25, prune_interval: 2, targets: [attention]",
    "sora": "rank: 3, dropout: 0.2, gate_threshold: 0.02, targets: [attention]",
    "melora": "rank: 2, minis: 2, dropout: 0.2, targets: [attention]",
    "cola": "links: 3, ranks: [3, 2, 1], dropout: 0.2, targets: [attention]",
    "cora": "rank: 2, dropout: 0.2, targets: [attention]",
    "nora": "rank: 2, outer_rank: 4, dropout: 0.2, outer: activation-aware, stored: false",
    "flat-lora": "rank: 2, dropout: 0.2, flatness: 0.3, targets: [attention]",
    "xgblora": "rank: 2, layers: 1, dropout: 0.2, targets: [attention]",
    "lora-pro": "rank: 2, dropout: 0.2, moments: full, damping: 1.0e-4, targets: [attention]",
    "full": "",
    "bitfit": "",
    "houlsby": "bottleneck: 3",
    "pfeiffer": "bottleneck: 3",
}
"""What a run of 12 steps needs, beside the defaults of the section."""
OF_THEIR_OWN = {"dora", "lora", "head"}
SMALL = (
    "data.max_train_samples=46",
    "data.max_eval_samples=16",
    "train.epochs=2",
    "train.batch_size=8",
    "save.every_steps=2",
)
EVERY = pytest.mark.parametrize("name", SETTINGS)


def test_every_method_is_here() -> None:
    assert SETTINGS.keys() | OF_THEIR_OWN == METHODS.keys()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory, copied=False)


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


def recipe_of(make_recipe: MakeRecipe, name: str, *overrides: str) -> Recipe:
    settings = ", ".join(filter(None, (f"name: {name}", SETTINGS[name])))
    return make_recipe(f"method={{{settings}}}", *SMALL, *overrides)


@EVERY
def test_planned_trained_and_evaluated(make_recipe: MakeRecipe, runs: Runs, name: str) -> None:
    """The dry run promises the phases and the size of what is trained; an evaluation finds the run's own numbers."""
    recipe = recipe_of(make_recipe, name)
    ahead, run = dry_run(recipe), runs.straight(recipe)
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    assert metrics["method"] == name
    assert [(phase["name"], phase["first"], phase["last"]) for phase in ranks["phases"]] == list(ahead.phases)
    assert ahead.parameters is not None
    budget = metrics["budget"]
    assert budget["trainable_parameters_start"] >= ahead.parameters["start"] + ahead.parameters["head"]
    if about(name).ranks == "none":
        # the pooler is not in the checkpoint, so it trains with the head: what a dry run cannot know
        pooler = budget["trainable_parameters_final"] - budget["adapter_parameters_final"] - ahead.parameters["head"]
        of_the_pooler = ahead.parameters["final"] - budget["adapter_parameters_final"]
        assert 0 <= of_the_pooler <= (0 if ahead.parameters["projections"] else pooler)
        assert ranks["layers"] == []
    else:
        assert sum(layer["rank"] for layer in ranks["layers"]) == budget["live_components"]
    if about(name).ranks == "grown":
        assert ahead.schedule["final_components"] == budget["live_components"]
        assert ahead.parameters["final"] == budget["adapter_parameters_final"]
    epochs = metrics["epochs"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert evaluate(run)["identical"] is True


@EVERY
def test_cut_in_each_phase_and_gone_on_with(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str) -> None:
    """In one run, which goes on until the next cut; also where one link of a chain follows another."""
    recipe, run = recipe_of(make_recipe, name), tmp_path / "run"
    # from step 3 on there is a checkpoint to go on from
    steps = {(max(first, 3) + last) // 2 for _, first, last in dry_run(recipe).phases}
    if about(name).ranks == "grown":
        steps.add(read(runs.straight(recipe) / "ranks.json")["history"][1]["step"])
    runs.cut_again_and_again(recipe, run, sorted(steps))
    train(recipe, run, resume=True)
    assert_equal_runs(runs.straight(recipe), run)


@pytest.mark.parametrize("name", [name for name in SETTINGS if METHODS[name].announces])
def test_a_pass_in_vain_leaves_nothing_behind(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It comes before the first step on CUDA; here before every step, and what is launched in it is computed."""
    passes: list[int] = []

    def ahead(work: Callable[[], None], _: object, *touched: Any) -> None:
        passes.append(len(passes))
        pass_in_vain(work, *touched, nullcontext())

    always = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(step_module, "compile_ahead", ahead)
    monkeypatch.setattr(step_module.TrainingStep, "_compiled_ahead", always, raising=False)
    train(recipe_of(make_recipe, name), tmp_path / "run")
    assert len(passes) == 12
    assert_equal_runs(runs.straight(recipe_of(make_recipe, name)), tmp_path / "run")


@pytest.mark.parametrize("name", ["adalora", "cola", "lora-pro"])
def test_killed_and_gone_on_with(warm: Warm, make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str) -> None:
    """A true SIGKILL, half a checkpoint written: of ranks that shrink, of a chain, and with an optimiser of its own.

    What no method changes is which files there are, and in which order they are written.
    """
    recipe = recipe_of(make_recipe, name)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    command = ("train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run"))
    assert warm.run(*command, strike=Strike("checkpoint: step-8 half of adapter.safetensors")).code < 0
    done = dora(*command, "--resume")
    assert done.code == 0, done.err
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_two_processes_train_what_one_trains(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Up to the order of sums; the last group of an epoch is smaller, and leaves one process without work."""

    def recipe(name: str, *parts: str) -> Recipe:
        without = () if "dropout" not in SETTINGS[name] else ("method.dropout=0",)
        common = ("data.max_train_samples=35", "train.epochs=2", "save.every_steps=null", *without)
        return recipe_of(make_recipe, name, *common, *parts)

    parts = ("train.batch_size=4", "train.gradient_accumulation=2")
    train_recipes_in_two({tmp_path / name / "2": recipe(name, *parts) for name in SETTINGS})
    for name in SETTINGS:
        one, two = tmp_path / name / "1", tmp_path / name / "2"
        train(recipe(name, "train.batch_size=16"), one)
        assert read(two / "environment.json")["processes"] == 2
        assert largest_difference(one / "adapter", two / "adapter") < 1e-5, name
        assert read(one / "ranks.json")["history"] == read(two / "ranks.json")["history"], name


@pytest.mark.parametrize("name", ["adalora", "full"])  # no method asks for the seed itself
def test_another_seed_trains_something_else(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str) -> None:
    """That the same one trains the same, the runs say that were killed and cut."""
    recipe = recipe_of(make_recipe, name)
    other = recipe_of(make_recipe, name, f"train.seed={recipe.train.seed + 1}", "save.every_steps=null")
    found = train(other, tmp_path / "run").metrics
    assert found["epochs"] != read(runs.straight(recipe) / "metrics.json")["epochs"]


@EVERY
def test_shown_and_predicted(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    shown = dora("ranks", run)
    assert shown.code == 0
    has_ranks = about(name).ranks != "none"
    assert ("components" in shown.out) == has_ranks
    assert dora("ranks", run, "--history").code == (2 if about(name).ranks == "none" else 0)
    assert dora("report", run, "--output", tmp_path / "report.html").code == 0
    assert name in (tmp_path / "report.html").read_text()
    assert dora("predict", "--checkpoint", run, "--split", "validation", "--output", tmp_path / "out.jsonl").code == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 16


@EVERY
def test_folded_loaded_and_merged_give_the_same_answers(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str
) -> None:
    """A model of the user's own with the adapter on it computes what the run's does, folded or not, merged where that
    can be, and saved for PEFT where it is plain LoRA.
    """
    run = runs.straight(recipe_of(make_recipe, name))
    trained = restore(run, (), lambda recipe, task: ()).adapted
    torch.manual_seed(0)
    batch = {"input_ids": torch.randint(5, 40, (4, 9)), "attention_mask": torch.ones(4, 9, dtype=torch.long)}

    def answers(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(**batch).logits

    expected = answers(trained.model)
    with trained.method.folded():
        torch.testing.assert_close(answers(trained.model), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(answers(trained.model), expected)
    base = load_recipe(run / "recipe.yaml").model.name
    own = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    before = answers(own)
    load_adapter(run, own)
    assert torch.equal(answers(own), expected)
    assert not torch.allclose(before, expected)
    if about(name).lora:
        save_adapter(own, tmp_path / "saved")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's
            theirs = PeftModel.from_pretrained(
                AutoModelForSequenceClassification.from_pretrained(base, num_labels=2), tmp_path / "saved"
            )
        torch.testing.assert_close(answers(theirs), expected, rtol=1e-5, atol=1e-6)
    if about(name).mergeable:
        torch.testing.assert_close(answers(dora_cli.merge(own)), expected, rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(ModelError, match=name):
            dora_cli.merge(own)


@EVERY
@pytest.mark.parametrize("format", ["peft", "merged"])
def test_exported_where_that_can_be(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, name: str, format: str
) -> None:
    run = runs.straight(recipe_of(make_recipe, name))
    if about(name).lora if format == "peft" else about(name).mergeable:
        found = export_saved(run, tmp_path / format, format=format)
        assert found.agreement.difference < 1e-5
        assert about(name).card.splitlines()[0] in (tmp_path / format / "README.md").read_text()
    else:
        with pytest.raises((ExportError, ModelError), match=name):
            export_saved(run, tmp_path / format, format=format)
        assert not (tmp_path / format).exists()


@EVERY
def test_the_keys_of_its_section_are_told(name: str) -> None:
    listed = json.loads(dora("methods", "--json").out)["methods"]
    found = next(method for method in listed if method["name"] == name)
    assert found["title"]
    assert found["summary"]
    assert {"name", *found["keys"]} == METHOD_SECTIONS[name].model_fields.keys()
    assert found["mergeable"] is (METHODS[name].cannot_merge == "")


@pytest.mark.gpu
@EVERY
def test_captured_steps_give_what_eager_ones_do(make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    """Through its phases, and where tensors shrink."""
    flags = ("train.device=cuda", "train.precision=fp32", "train.deterministic=true", "save.every_steps=null")
    for setting in ("on", "off"):
        train(recipe_of(make_recipe, name, *flags, f"train.cuda_graph={setting}"), tmp_path / setting)
    one, two = (read(tmp_path / setting / "metrics.json") for setting in ("on", "off"))
    losses = [[epoch["train_loss"] for epoch in metrics["epochs"]] for metrics in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert read(tmp_path / "on" / "ranks.json")["history"] == read(tmp_path / "off" / "ranks.json")["history"]
