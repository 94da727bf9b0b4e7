"""Whole runs on a small model: records, repeatability, accumulation, evaluation from the folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dora_cli import evaluate, load_recipe, train, train_seeds
from dora_cli.assembly.look import look_at_data
from dora_cli.errors import CheckpointError, DivergedError, LibraryError, OutputError, RecipeError
from dora_cli.evaluation.measuring import Evaluator
from dora_cli.libraries import loading
from dora_cli.methods import Dora
from dora_cli.recipe import Recipe
from dora_cli.runs.left_open import settled
from dora_cli.training.listener import SilentListener
from dora_cli.training.run import RunResult
from dora_cli.training.step import TrainingStep
from tests.training.conftest import MakeRecipe

# 94 examples / 16 -> 6 steps x 4 epochs; floor(0.15 * 24) = 3; 3 + floor(0.35 * 24) = 11
STEPS, WARMUP, FREEZE = 24, 3, 11


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_timing(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: without_timing(value) for key, value in record.items() if key != "timing"}
    return [without_timing(value) for value in record] if isinstance(record, list) else record


def largest_difference(first: Path, second: Path) -> float:
    largest = 0.0
    for file in ("adapter.safetensors", "head.safetensors"):
        one, two = load_file(first / file), load_file(second / file)
        assert one.keys() == two.keys()
        largest = max([largest, *(float((one[name].double() - two[name].double()).abs().max()) for name in one)])
    return largest


GetTrained = Callable[[Recipe], tuple[RunResult, Path]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> GetTrained:
    """What training a recipe returns, and the run's folder; trained once, and nobody changes it."""
    made: dict[str, tuple[RunResult, Path]] = {}

    def get(recipe: Recipe) -> tuple[RunResult, Path]:
        key = recipe.model_dump_json()
        if key not in made:
            run = tmp_path_factory.mktemp("trained") / "run"
            made[key] = train(recipe, run), run
        return made[key]

    return get


SIX = "train.max_steps=6"
"""An epoch, where a finished run is all that a test needs."""


@pytest.fixture
def finished(make_recipe: MakeRecipe, trained: GetTrained, tmp_path: Path) -> Path:
    """A copy of a finished run of an epoch, in ``run``."""
    return shutil.copytree(trained(make_recipe(SIX))[1], tmp_path / "run")


@pytest.fixture(scope="module")
def two_seeds(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of an epoch of two seeds; nobody changes them."""
    runs = tmp_path_factory.mktemp("seeds") / "runs"
    train_seeds(make_recipe(SIX), runs, [1, 2])
    return runs


def test_run_folder_holds_everything_and_numbers_agree(make_recipe: MakeRecipe, trained: GetTrained) -> None:
    recipe = make_recipe()
    result, run = trained(recipe)
    assert {path.name for path in run.iterdir()} == {
        "recipe.yaml", "metrics.json", "log.jsonl", "ranks.json", "environment.json", "checkpoints", "adapter",
    }  # fmt: skip
    assert load_recipe(run / "recipe.yaml") == settled(recipe)
    metrics, ranks = read(run / "metrics.json"), read(run / "ranks.json")
    assert metrics == json.loads(json.dumps(result.metrics))
    assert [epoch["step"] for epoch in metrics["epochs"]] == [6, 12, 18, 24]
    assert [epoch["phase"] for epoch in metrics["epochs"]] == ["pruning", "final", "final", "final"]
    # a block of 6 projections; start rank ceil(1.5 * 2) = 3
    assert metrics["budget"]["start_components"] == 18
    assert (
        metrics["budget"]["final_components"]
        == metrics["budget"]["live_components"]
        == 12
        == sum(layer["rank"] for layer in ranks["layers"])
    )
    assert metrics["budget"]["adapter_parameters_final"] == sum(
        layer["rank"] * sum(layer["shape"]) for layer in ranks["layers"]
    )
    head = 16 * 16 + 16 + 2 * 16 + 2  # the fresh pooler and the classifier
    start = 3 * (4 * 32 + 2 * 48) + 18
    assert metrics["budget"]["trainable_parameters_start"] == start + head
    assert metrics["budget"]["trainable_parameters_final"] == metrics["budget"]["adapter_parameters_final"] + 12 + head
    # events at W + 3j where something is pruned and at F, live by the published curve: 18 - floor(6 tau^3 / 8^3);
    # 6 (3 / 8)^3 < 1
    assert [(event["step"], event["live"]) for event in ranks["history"]] == [(9, 16), (11, 12)]
    assert ranks["phases"] == [
        {"name": "warm-up", "first": 1, "last": WARMUP},
        {"name": "pruning", "first": WARMUP + 1, "last": FREEZE},
        {"name": "final", "first": FREEZE + 1, "last": STEPS},
    ]
    best = max(metrics["epochs"][1:], key=lambda epoch: epoch["metrics"]["accuracy"])
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["metrics"] == best["metrics"]
    assert metrics["last"] == metrics["epochs"][-1]["metrics"]
    shares = [epoch["real_tokens"] for epoch in metrics["epochs"]]
    splits = look_at_data(recipe)["splits"]
    assert len(shares) == 4
    assert shares[0] == splits["train"]["real"]
    assert metrics["real_tokens"] == {
        # an epoch has the same real tokens as any other, and as many times more that are computed
        "training": pytest.approx(4 / sum(1 / share for share in shares)),
        "evaluation": splits["validation"]["real"],
    }
    assert read(run / "environment.json")["pad_multiple"] == 1  # on the CPU
    log = lines(run / "log.jsonl")
    assert [entry["step"] for entry in log if entry["type"] == "train"] == [5, 10, 15, 20, 24]
    assert [entry["epoch"] for entry in log if entry["type"] == "eval"] == [1, 2, 3, 4]
    # 5e-3, warm-up floor(0.06 * 24) = 1 step from zero: step t has (24 - (t - 1)) / 23 of it
    rates = [entry["learning_rate"] for entry in log if entry["type"] == "train"]
    assert rates == pytest.approx([5e-3 * (24 - (step - 1)) / 23 for step in (5, 10, 15, 20, 24)])
    assert {entry["regulariser"] is None for entry in log if entry["type"] == "train" and entry["step"] > FREEZE} == {
        True
    }
    assert read(run / "adapter" / "state.json")["epoch"] == best["epoch"]
    assert (run / "checkpoints" / f"step-{STEPS}" / "manifest.json").exists()


def test_training_learns(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A few sentences can be fitted: the loss of the last epoch is well below that of guessing, ln 2.

    DEM is off: its gradient falls with the width and the number of components, and at width 16 it outweighs the task's.
    """
    recipe = make_recipe(
        "train.epochs=20",
        "data.max_train_samples=32",
        "train.learning_rate=4e-2",
        "eval.every=end",
        "method.dem_weight=0",
    )
    metrics = train(recipe, tmp_path / "run").metrics
    assert metrics["epochs"][-1]["train_loss"] < 0.5 < lines(tmp_path / "run" / "log.jsonl")[0]["loss"]


def test_same_seed_gives_identical_records_and_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("method.dropout=0.2", "train.epochs=2")
    for name in ("a", "b"):
        torch.rand(3)  # whatever the process did before must not matter
        train(recipe, tmp_path / name)
    assert largest_difference(tmp_path / "a" / "adapter", tmp_path / "b" / "adapter") == 0
    for name in ("metrics.json", "ranks.json"):
        assert without_timing(read(tmp_path / "a" / name)) == without_timing(read(tmp_path / "b" / name))
    assert without_timing(lines(tmp_path / "a" / "log.jsonl")) == without_timing(lines(tmp_path / "b" / "log.jsonl"))
    train(make_recipe("method.dropout=0.2", "train.seed=2", "train.epochs=2", "train.max_steps=6"), tmp_path / "c")
    assert lines(tmp_path / "a" / "log.jsonl")[0]["loss"] != lines(tmp_path / "c" / "log.jsonl")[0]["loss"]


def test_accumulation_equals_one_large_batch(make_recipe: MakeRecipe, trained: GetTrained) -> None:
    """4 x 4 against 1 x 16 through all phases, DEM on, with a last group of 14 = 4 + 4 + 4 + 2 examples
    in each epoch.
    """
    assert 94 % 16 == 14
    _, large = trained(make_recipe("method.dem_until=end"))
    _, small = trained(make_recipe("method.dem_until=end", "train.batch_size=4", "train.gradient_accumulation=4"))
    ranks = [[layer["rank"] for layer in read(run / "ranks.json")["layers"]] for run in (large, small)]
    assert ranks[0] == ranks[1]
    last = f"checkpoints/step-{STEPS}"
    assert largest_difference(large / last, small / last) < 5e-6  # fp32 sums in another order
    for one, two in zip(lines(large / "log.jsonl"), lines(small / "log.jsonl"), strict=True):
        if one["type"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
            assert one["regulariser"] == pytest.approx(two["regulariser"], abs=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method.compact=false", "eval.select=last"),
        ("method={name: head}", "data.group_by_length=true"),
    ],
)
def test_eval_reproduces_the_run_exactly(
    make_recipe: MakeRecipe, trained: GetTrained, overrides: tuple[str, ...]
) -> None:
    result, run = trained(make_recipe(*overrides))
    found = evaluate(run)
    assert found["metrics"] == result.metrics["metrics"] == found["recorded"]
    assert found["identical"] is True
    last = evaluate(run / "checkpoints" / f"step-{STEPS}")
    assert last["metrics"] == result.metrics["last"]
    assert last["step"] == STEPS


def test_compaction_changes_no_number(make_recipe: MakeRecipe, trained: GetTrained) -> None:
    compact, masked = (
        trained(make_recipe(f"method.compact={value}", "method.dem_until=end"))[1] for value in ("true", "false")
    )
    for one, two in zip(lines(compact / "log.jsonl"), lines(masked / "log.jsonl"), strict=True):
        if one["type"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
            assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3)
    assert read(compact / "ranks.json")["layers"] == read(masked / "ranks.json")["layers"]


def test_the_environment_does_not_scale_gradients(
    make_recipe: MakeRecipe, trained: GetTrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate reads this variable and would divide every loss by it."""
    _, plain = trained(make_recipe(SIX))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(make_recipe(SIX), tmp_path / "run")
    assert without_timing(lines(plain / "log.jsonl")) == without_timing(lines(tmp_path / "run" / "log.jsonl"))


def test_a_selection_from_before_the_freeze_is_said(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    said: list[str] = []

    class Notes(SilentListener):
        def note(self, message: str) -> None:
            said.append(message)

    result = train(make_recipe("eval.select=best", "train.learning_rate=1e-30"), tmp_path / "run", listener=Notes())
    assert result.metrics["best_epoch"] == 1  # nothing changes, so the first of equals is kept
    assert any("(epoch 1)" in message and "freeze" in message for message in said)
    assert evaluate(tmp_path / "run")["identical"] is True


def test_metrics_are_loaded_after_the_first_step(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken library of theirs shows then, not after an epoch."""
    steps, prepared = 0, []
    step_function = TrainingStep.__call__

    def counted(self: TrainingStep, *arguments: Any, **others: Any) -> Any:
        nonlocal steps
        steps += 1
        return step_function(self, *arguments, **others)

    monkeypatch.setattr(TrainingStep, "__call__", counted)
    monkeypatch.setattr(Evaluator, "prepare", lambda self: prepared.append(steps))
    train(make_recipe("train.max_steps=6"), tmp_path / "run")
    assert prepared == [1]
    assert steps == 6


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_broken_metric_library_costs_no_run_and_leaves_none(
    make_recipe: MakeRecipe, trained: GetTrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        shutil.copytree(trained(make_recipe(SIX))[1], tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    def broken(self: Evaluator) -> None:
        with loading("what computes it"):
            raise ValueError("numpy.dtype size changed")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "prepare", broken)
        with pytest.raises(LibraryError, match=r"^what computes it .*numpy"):
            train(make_recipe("train.max_steps=6"), tmp_path / "run", overwrite=overwrite)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    # no run that is unfinished stands in its way
    train(make_recipe("train.max_steps=6"), tmp_path / "run", overwrite=overwrite)


def test_lr_warmup_must_end_within_the_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.lr_warmup_steps .*\b24\b.*\b24\b"):
        train(make_recipe("train.lr_warmup_steps=24"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_eval_says_why_it_cannot_be_compared(finished: Path) -> None:
    said: list[str] = []
    reasons = {
        "data.max_length=64": "data.max_length is 64",
        "data.max_eval_samples=20": "examples of validation are others",
    }
    for override, reason in reasons.items():
        found = evaluate(finished, overrides=[override], note=said.append)
        assert "identical" not in found
        assert reason in said[-1]


def test_max_steps_ends_the_run_and_is_evaluated(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    metrics = train(make_recipe("train.max_steps=20"), tmp_path / "run").metrics
    assert [epoch["step"] for epoch in metrics["epochs"]] == [6, 12, 18, 20]


def test_bf16_on_the_cpu(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    metrics = train(make_recipe("train.precision=bf16", "model.dtype=bfloat16"), tmp_path / "run").metrics
    assert metrics["budget"]["live_components"] == 12
    weights = load_file(tmp_path / "run" / "adapter" / "adapter.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if name.endswith((".A", ".B", ".c"))} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "adapter" / "head.safetensors").values()} == {
        torch.float32
    }
    assert evaluate(tmp_path / "run")["identical"] is True


def test_seeds_make_a_summary_and_finished_ones_are_kept(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("train.epochs=1", "data.max_train_samples=64", "train.batch_size=4")
    first = train_seeds(recipe, tmp_path / "runs", [1, 2])
    values = first["metrics"]["accuracy"]["best"]["values"]
    assert values == [
        read(tmp_path / "runs" / f"seed-{seed}" / "metrics.json")["metrics"]["accuracy"] for seed in (1, 2)
    ]
    assert read(tmp_path / "runs" / "summary.json") == json.loads(json.dumps(first))
    before = (tmp_path / "runs" / "seed-1" / "metrics.json").stat().st_mtime_ns
    (tmp_path / "runs" / "seed-2" / "metrics.json").unlink()  # an unfinished run starts again
    assert train_seeds(recipe, tmp_path / "runs", [1, 2])["metrics"] == first["metrics"]
    assert (tmp_path / "runs" / "seed-1" / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="another recipe"):
        train_seeds(make_recipe(), tmp_path / "runs", [1, 2])


@pytest.mark.parametrize("seeds", [[2, 1], [3]])
def test_seeds_can_be_replaced(make_recipe: MakeRecipe, two_seeds: Path, tmp_path: Path, seeds: list[int]) -> None:
    """Those that are trained again as well as those that are not; what a user has put beside them stays."""
    runs = shutil.copytree(two_seeds, tmp_path / "runs")
    (runs / "seed-2" / "notes.txt").write_text("mine")
    summary = train_seeds(make_recipe("train.max_steps=6", "train.learning_rate=1e-4"), runs, seeds, overwrite=True)
    assert summary["seeds"] == sorted(seeds)
    assert sorted(path.name for path in runs.glob("seed-*")) == sorted({*(f"seed-{seed}" for seed in seeds), "seed-2"})
    assert (runs / "seed-2" / "notes.txt").read_text() == "mine"
    assert evaluate(runs / f"seed-{seeds[0]}")["identical"] is True


@pytest.mark.parametrize(("what", "finished"), [("train", True), ("validation", False), ("model", True)])
def test_seeds_of_other_data_or_another_base_are_refused_before_anything_is_trained(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, what: str, finished: bool
) -> None:
    """The recipe is the same, key by key; what lies where it points has changed.

    A mean of both would be one of nothing.
    """
    data, model, runs = tmp_path / "data", tmp_path / "model", tmp_path / "runs"
    shutil.copytree(tiny_model, model)
    data.mkdir()
    for split in ("train", "validation"):
        rows = "".join(f"a good film {number},{number % 2}\n" for number in range(24))
        (data / f"{split}.csv").write_text(f"sentence,label\n{rows}")
    recipe = make_recipe(
        "data={source: files, path: " + str(data) + "}",
        f"model.name={model}",
        "train.max_steps=6",
        "train.batch_size=4",
    )
    train_seeds(recipe, runs, [1])
    if not finished:
        (runs / "seed-1" / "metrics.json").unlink()
    if what == "model":
        weights = load_file(model / "model.safetensors")
        name = next(name for name in weights if name.endswith("query.weight"))
        save_file({**weights, name: weights[name] + 1}, model / "model.safetensors", metadata={"format": "pt"})
    else:
        (data / f"{what}.csv").write_text((data / f"{what}.csv").read_text().replace("good film 7,", "bad film 7,"))
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="base model" if what == "model" else f"examples of {what}"):
        train_seeds(recipe, runs, [2, 1])  # 2 would be trained first
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before
    assert train_seeds(recipe, runs, [2], overwrite=True)["seeds"] == [2]


def test_a_seed_without_a_checkpoint_begins_anew_on_what_is_there_now(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    """It was stopped before anything was learned, so nothing of the former model is in it."""
    shutil.copytree(tiny_model, tmp_path / "model")
    recipe, run = make_recipe(f"model.name={tmp_path / 'model'}", "train.max_steps=6"), tmp_path / "runs" / "seed-1"
    train_seeds(recipe, tmp_path / "runs", [1])
    before = read(run / "environment.json")["model"]["fingerprint"]
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "checkpoints")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: weight + 1 for name, weight in weights.items()},
        tmp_path / "model" / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert train_seeds(recipe, tmp_path / "runs", [1])["seeds"] == [1]
    assert read(run / "environment.json")["model"]["fingerprint"] != before


def test_seeds_whose_replacing_was_cut_short_begin_anew(
    make_recipe: MakeRecipe, two_seeds: Path, tmp_path: Path
) -> None:
    """Whatever is left of the earlier runs says nothing of the new ones."""
    runs = shutil.copytree(two_seeds, tmp_path / "runs")
    for run in (runs / "seed-1", runs / "seed-2"):
        (run / "recipe.yaml").write_text("")
        (run / "metrics.json").unlink()
    (runs / "seed-1" / "environment.json").unlink()
    assert train_seeds(make_recipe("train.max_steps=7"), runs, [1, 2])["seeds"] == [1, 2]
    assert evaluate(runs / "seed-1")["identical"] is True


@pytest.mark.parametrize("taken", ["seed-1", "seed-2"])
def test_a_finished_seed_that_is_taken_away_is_no_silent_loss(
    make_recipe: MakeRecipe, tmp_path: Path, taken: str
) -> None:
    """Seen as soon as the seed that follows it is done, or before: no summary of fewer seeds than were asked for."""
    runs = tmp_path / "runs"

    class Takes(SilentListener):
        def finish(self, *_: object) -> None:
            if (runs / "seed-2").exists():
                shutil.rmtree(runs / taken)

    with pytest.raises(OutputError, match=taken):
        train_seeds(make_recipe("train.max_steps=6"), runs, [1, 2], make_listener=Takes)
    assert not (runs / "summary.json").exists()


def test_a_run_is_never_overwritten_unasked(make_recipe: MakeRecipe, finished: Path, tmp_path: Path) -> None:
    recipe = make_recipe(SIX)
    before = (finished / "metrics.json").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        train(recipe, finished)
    assert (finished / "metrics.json").read_bytes() == before
    train(recipe, finished, overwrite=True)
    assert (finished / "metrics.json").read_bytes() != before  # of the times alone
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="precious"):
        train(recipe, tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_divergence_names_the_step_and_keeps_the_weights_before_it(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 8 on the gradient is not a number; the run ends at the next reading, step 9 being an event."""
    plain = Dora.adjust_gradients
    seen: dict[int, list[torch.Tensor]] = {}

    def poisoned(self: Dora) -> torch.Tensor | None:
        step = len(seen) + 1
        seen[step] = [parameter.detach().clone() for parameter in self.parameters()] + [self._selection.scores.clone()]
        value = plain(self)
        if step >= 8:
            self.parameters()[0].grad.fill_(float("nan"))  # type: ignore[union-attr]
        return value

    monkeypatch.setattr(Dora, "adjust_gradients", poisoned)
    where = r"step 8 \(epoch 2, batch 2 of 6\) was not finite, at learning rate 0\.0037; noticed at step 9"
    with pytest.raises(DivergedError, match=where):
        train(make_recipe(), tmp_path / "run")
    assert max(seen) == 9
    assert all(torch.equal(one, two) for one, two in zip(seen[8], seen[9], strict=True))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_damaged_checkpoints_are_refused(finished: Path, tmp_path: Path) -> None:
    target = finished / "adapter" / "adapter.safetensors"
    content = target.read_bytes()
    target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors .*manifest"):
        evaluate(finished)
    target.unlink()
    with pytest.raises(CheckpointError, match=r"lacks adapter\.safetensors"):
        evaluate(finished)
    with pytest.raises(CheckpointError, match="nowhere"):
        evaluate(tmp_path / "nowhere")


def test_local_paths_are_stored_so_that_any_folder_will_do(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    train(make_recipe("train.max_steps=6", f"model.name=./{tiny_model.name}"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert evaluate("run")["identical"] is True
    with pytest.raises(ValueError, match=r"model\.name: .*'\./gone'[\s\S]*--set model\.name"):
        evaluate("run", overrides=["model.name=./gone"])


def test_eval_takes_another_split_and_source(finished: Path, tmp_path: Path) -> None:
    assert "identical" not in evaluate(finished, split="test")
    with pytest.raises(RecipeError, match="--split dev"):
        evaluate(finished, split="dev")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "validation.csv").write_text("text,mood\na fine film,good\na dull film,bad\n")
    found = evaluate(
        finished,
        overrides=[
            "data.source=files",
            f"data.path={tmp_path / 'own'}",
            "data.columns={sentence: text, label: mood}",
            "data.labels=[bad, good]",
        ],
    )
    assert found["splits"] == {"validation": 2}
    with pytest.raises(RecipeError, match=r"--set method\.rank: "):
        evaluate(finished, overrides=["method.rank=4"])


def test_nothing_is_written_when_the_run_cannot_start(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pruning .* at least 100 steps"):
        train(make_recipe("method.warmup_fraction=0.49", "method.final_fraction=0.5"), tmp_path / "run")
    with pytest.raises(ValueError, match="no_such_layer"):
        train(make_recipe("method.targets=['*.no_such_layer']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_refuses_the_weights_is_one_message(
    make_recipe: MakeRecipe, trained: GetTrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safetensors reports a full disk by an error of its own, not by the system's."""
    import safetensors.torch
    from safetensors import SafetensorError

    plain = safetensors.torch.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "step-18" in str(path):
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        plain(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OutputError, match=rf"step-18: .*{os.strerror(errno.ENOSPC)}"):
            train(make_recipe(), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-12", "step-6"]
    assert evaluate(tmp_path / "run")["step"] == 12  # the selected weights are whole
    train(make_recipe(), tmp_path / "run", resume=True)
    _, straight = trained(make_recipe())
    assert largest_difference(tmp_path / "run" / "adapter", straight / "adapter") == 0
