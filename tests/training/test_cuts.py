"""A step whose batches are cut into parts of similar length is the step of whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from dora_cli import train
from dora_cli.assembly import work
from dora_cli.assembly.build import make_method
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.prepare import Prepared, prepare, prepare_model
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.warm import Warm
from dora_cli.data import plan_epoch
from dora_cli.data.cuts import UNCUT, Cuts, cut_batches
from dora_cli.machine.ground import take_ground
from dora_cli.machine.threads import own_threads
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.training.loop import make_step
from dora_cli.training.step import TrainingStep
from tests.runs.test_resume import assert_equal_runs, cut
from tests.training.conftest import MakeRecipe
from tests.training.test_every_method import SETTINGS
from tests.training.test_run import largest_difference, lines, read

METHODS = {
    **{name: f"name: {name}, {settings}".rstrip(", ") for name, settings in SETTINGS.items()},
    "lora": "name: lora, rank: 2",
    "dora": "name: dora, rank: 2",
    "dora by fisher": "name: dora, rank: 2, start: lora, gates: fixed, score: fisher, prune_interval: 1",
    "dora by kfac": "name: dora, rank: 2, start: unit, score: kfac, prune_interval: 1",
    "dora that turns": "name: dora, rank: 2, start: unit, rotate: input, prune_interval: 1",
}


def prepared_of(recipe: Recipe) -> Prepared:
    """All that a loop needs, in float64, with adapters that are not at their start."""
    recipe, task = resolve(recipe)
    ground, warm = take_ground(recipe), Warm(most=0)
    method = make_method(recipe)
    data = warm.load_data(recipe, task, held_out=method.held_out)
    length = RunLength.of(recipe, len(data.training), 1)
    adapted, speed = prepare_model(
        recipe, task, lambda: method, ground, length, fresh=True, threads=1, fused=None, note=lambda line: None
    )
    prepared = prepare(
        recipe, task, data, length, adapted, ground, fresh=True, speed=speed,
        progress=lambda *_: None, warm=warm,
    )  # fmt: skip
    adapted.model.double().eval()  # without dropout
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.trainable:
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return prepared


def summed(step: TrainingStep, prepared: Prepared, cuts: Cuts) -> tuple[int, list[torch.Tensor]]:
    """How many passes the first step takes, and what it sums over them: gradients, statistics and loss."""
    settings, split = prepared.recipe.train, prepared.train
    group = next(
        plan_epoch(
            split.lengths, split.units, seed=settings.seed, epoch=1, micro_batch=settings.batch_size,
            accumulation=settings.gradient_accumulation,
        )
    )  # fmt: skip
    step.ledger.begin(1, group.units)
    step.method.begin_step(1, 1e-3)
    parts = list(cut_batches(split, group.micro_batches, cuts))
    for rows in parts:
        step._forward_backward(split.collate(rows))
    sums = [*step._gradients(), *step._statistics(), step.ledger.loss]
    found = [tensor.detach().double().clone() for tensor in sums]
    torch._foreach_zero_(sums)
    return len(parts), found


def assert_alike(prepared: Prepared) -> None:
    """Whole, in two parts and in eight."""
    step = make_step(prepared, lambda line: None)
    assert all(parameter.dtype == torch.float64 for parameter in prepared.adapted.trainable)
    settings = prepared.recipe.train
    passes, whole = summed(step, prepared, UNCUT)
    assert passes == settings.gradient_accumulation
    largest = max(float(tensor.abs().max()) for tensor in whole[:-1])
    assert largest > 1e-4
    for most in (2, 8):
        passes, parts = summed(step, prepared, Cuts(most))
        assert settings.gradient_accumulation < passes <= most * settings.gradient_accumulation
        # losses are fp32, whatever the weights are
        torch.testing.assert_close(parts.pop(), whole[-1], rtol=1e-6, atol=0)
        for one, two in zip(whole[:-1], parts, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10 * largest)


@own_threads()
@pytest.mark.parametrize("name", METHODS)
def test_parts_give_every_method_what_the_whole_gives(make_recipe: MakeRecipe, name: str) -> None:
    """Its gradients and all that it sums over passes."""
    recipe = make_recipe(f"method={{{METHODS[name]}}}", "train.gradient_accumulation=2", "train.label_smoothing=0.1")
    assert_alike(prepared_of(recipe))


@own_threads()
@pytest.mark.parametrize(("model", "accumulation"), [("tiny-decoder", 2), ("tiny-seq2seq", 1)])
def test_parts_of_texts_give_what_the_whole_gives(model: str, accumulation: int) -> None:
    """The loss is a mean over target tokens, of which parts hold different numbers."""
    recipe = parse_recipe(
        f"""
        task: e2e
        model: {{name: "builtin:{model}"}}
        data: {{source: builtin, max_train_samples: 60, max_eval_samples: 4}}
        method: {{name: dora, rank: 2}}
        train: {{batch_size: 12, gradient_accumulation: {accumulation}, max_steps: 8, device: cpu}}
        """
    )
    assert_alike(prepared_of(recipe))


DROPS = ("method.dropout=0.2", "data.max_eval_samples=16", "save.every_steps=1")


@pytest.fixture(scope="module")
def whole(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(make_recipe("train.batch_parts=1"), run)
    return run


def test_a_run_in_parts_is_the_whole_one(make_recipe: MakeRecipe, whole: Path, tmp_path: Path) -> None:
    """Through all phases, up to rounding; and says how much less of it was padding."""
    recipe = make_recipe("train.batch_parts=3")
    train(recipe, tmp_path / "run")
    assert largest_difference(whole / "checkpoints" / "step-24", tmp_path / "run" / "checkpoints" / "step-24") < 5e-6
    for one, two in zip(*(lines(run / "log.jsonl") for run in (whole, tmp_path / "run")), strict=True):
        if one["type"] == "train":
            assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    before, after = (read(run / "metrics.json")["real_tokens"] for run in (whole, tmp_path / "run"))
    assert before["evaluation"] == after["evaluation"]
    assert before["training"] + 0.1 < after["training"] < 1
    assert read(tmp_path / "run" / "environment.json")["batch_parts"] == asdict(Cuts(3, dealt=True))
    assert read(whole / "environment.json")["batch_parts"]["most"] == 1
    assert ("parts of a batch", "up to 3, of similar length") in dry_run(recipe).rows


def passes_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passes every step takes from here on."""
    counted: list[int] = []
    call = TrainingStep.__call__

    def counting(self: TrainingStep, step: int, batches: Sequence[Any], *args: Any, **more: Any) -> Any:
        counted.append(len(batches))
        return call(self, step, batches, *args, **more)

    monkeypatch.setattr(TrainingStep, "__call__", counting)
    return counted


def test_a_run_in_parts_goes_on_as_it_began(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with dropout, also where a part would be worth more or less by now."""
    monkeypatch.setitem(work.PASS_WORK, "cpu", 2**12)  # few tokens of so small a model
    recipe, passes = make_recipe(*DROPS), passes_of(monkeypatch)
    train(recipe, tmp_path / "straight")
    cuts = read(tmp_path / "straight" / "environment.json")["batch_parts"]
    assert 1 < cuts["pass_tokens"] < 40
    cut(recipe, tmp_path / "run", step=10)
    monkeypatch.setitem(work.PASS_WORK, "cpu", 2**30)
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")
    assert max(passes) > 1
    assert passes[:24] == passes[24:33] + passes[34:]  # the tenth step was done, but not saved


def test_a_run_from_before_there_were_parts_goes_on_without(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(*DROPS)
    train(make_recipe(*DROPS, "train.batch_parts=1"), tmp_path / "straight")
    cut(recipe, tmp_path / "run", step=10)  # so small a model's batches are left whole
    records = tmp_path / "run" / "environment.json"
    said = records.read_text()
    cuts = read(records)["batch_parts"]
    assert cuts["most"] > 1
    text = said[: said.index('"batch_parts"')] + said[said.index('"model": {') :]
    records.write_text(text)
    assert "batch_parts" not in read(records)
    monkeypatch.setitem(work.PASS_WORK, "cpu", 0)
    passes = passes_of(monkeypatch)
    train(recipe, tmp_path / "run", resume=True)
    assert passes == [1] * 15
    assert largest_difference(tmp_path / "straight" / "adapter", tmp_path / "run" / "adapter") == 0


@pytest.mark.gpu
def test_captured_parts_are_the_whole_ones(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are quarters of a batch, whose shapes are captured one by one; where the recipe says so, and by itself."""
    monkeypatch.setitem(work.PASS_WORK, "cuda", 2**14)
    flags = ("train.device=cuda", "train.precision=fp32", "train.deterministic=true")
    settings = {
        "whole": ("train.batch_parts=1", "train.cuda_graph=off"),
        "eager": ("train.batch_parts=8", "train.cuda_graph=off"),
        "captured": ("train.batch_parts=8", "train.cuda_graph=on"),
        "auto": ("train.cuda_graph=on",),
    }
    for name, setting in settings.items():
        train(make_recipe(*flags, *setting), tmp_path / name)
    last = {name: tmp_path / name / "checkpoints" / "step-24" for name in settings}
    for name in ("eager", "captured", "auto"):
        assert largest_difference(last["whole"], last[name]) < 2e-5
        assert read(tmp_path / name / "environment.json")["batch_parts"]["pieces"] == work.FEW_PIECES
    padded = {name: read(tmp_path / name / "metrics.json")["real_tokens"]["training"] for name in settings}
    assert padded["whole"] < padded["auto"] <= padded["captured"] == padded["eager"]
