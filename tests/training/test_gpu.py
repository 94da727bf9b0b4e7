"""The same runs on CUDA: precisions, repeatability, agreement with the CPU, and steps that never wait
for the device.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dora_cli import evaluate, train
from dora_cli.machine.devices import make_accelerator
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import new_dora, sites
from tests.runs.test_resume import SAVES, assert_equal_runs, cut
from tests.training.conftest import MakeRecipe
from tests.training.test_generation import models, read_lines, recipe_of, tokenizer
from tests.training.test_run import STEPS, largest_difference, lines, read, without_timing

pytestmark = pytest.mark.gpu
__all__ = ["models", "tokenizer"]  # fixtures


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_generators_train_decode_and_are_reproduced(
    models: dict[str, Path], tmp_path: Path, name: str, precision: str
) -> None:
    overrides = ("train.device=cuda", f"train.precision={precision}", "method.dropout=0.1", "train.deterministic=true")
    for run in ("a", "b"):
        result = train(recipe_of(models[name], *overrides), tmp_path / run)
        assert result.metrics["epochs"][-1]["train_loss"] < result.metrics["epochs"][0]["train_loss"]
    assert evaluate(tmp_path / "a")["identical"] is True
    assert read_lines(tmp_path / "a" / "predictions.jsonl") == read_lines(tmp_path / "b" / "predictions.jsonl")
    assert largest_difference(tmp_path / "a" / "adapter", tmp_path / "b" / "adapter") == 0


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_generators_on_cuda_agree_with_the_cpu(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Without pruning: of components that score alike to rounding, two devices may keep different ones, and then they
    differ for good.
    """
    same = ("train.learning_rate=1.0e-3", "method.start_rank=2")
    train(recipe_of(models[name], *same), tmp_path / "cpu")
    train(recipe_of(models[name], *same, "train.device=cuda", "train.precision=fp32"), tmp_path / "cuda")
    cpu, cuda = (read(tmp_path / run / "metrics.json") for run in ("cpu", "cuda"))
    for one, two in zip(cpu["epochs"], cuda["epochs"], strict=True):
        assert one["metrics"]["loss"] == pytest.approx(two["metrics"]["loss"], abs=1e-3)
        assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_captured_losses_and_outputs_of_generators_are_the_eager_ones(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """The weights stay what they were, at a rate that is next to nothing."""
    for graph in ("off", "on"):
        overrides = ("train.device=cuda", "train.precision=fp32", "train.learning_rate=1e-30", "train.epochs=4")
        train(recipe_of(models[name], *overrides, f"train.cuda_graph={graph}"), tmp_path / graph)
    off, on = (read(tmp_path / run / "metrics.json") for run in ("off", "on"))
    assert len(on["epochs"]) == 4
    for one, two in zip(off["epochs"], on["epochs"], strict=True):
        assert two["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-5)
    written = [[line["output"] for line in read_lines(tmp_path / run / "predictions.jsonl")] for run in ("off", "on")]
    same = sum(one == two for one, two in zip(*written, strict=True))
    assert same >= 0.75 * len(written[0])  # the others hang on a tie


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["float32", "half"])
def test_every_precision_trains_and_is_reproduced_by_eval(
    make_recipe: MakeRecipe, tmp_path: Path, precision: str, dtype: str
) -> None:
    if dtype == "half":
        if precision == "fp32":
            pytest.skip("a half-precision base needs half-precision arithmetic")
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[precision]
    overrides = ("train.device=cuda", f"train.precision={precision}", f"model.dtype={dtype}", "method.dem_weight=0",
    "train.epochs=40",
                 "train.learning_rate=2e-2", "data.max_train_samples=32", "method.dropout=0.1")  # fmt: skip
    metrics = train(make_recipe(*overrides), tmp_path / "run").metrics
    assert metrics["budget"]["live_components"] == 12
    assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"] - 0.1
    assert metrics["timing"]["peak_memory_bytes"] > 0
    assert evaluate(tmp_path / "run")["identical"] is True


def test_deterministic_runs_are_bitwise_equal(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("train.device=cuda", "train.precision=bf16", "train.deterministic=true", "method.dropout=0.1")
    for name in ("a", "b"):
        train(recipe, tmp_path / name)
    assert largest_difference(tmp_path / "a" / "adapter", tmp_path / "b" / "adapter") == 0
    for name in ("metrics.json", "ranks.json"):
        one, two = (without_timing(read(tmp_path / run / name)) for run in ("a", "b"))
        assert one == two
    assert without_timing(lines(tmp_path / "a" / "log.jsonl")) == without_timing(lines(tmp_path / "b" / "log.jsonl"))


def test_cuda_agrees_with_the_cpu(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe("train.precision=fp32"), tmp_path / "cpu")
    train(make_recipe("train.precision=fp32", "train.device=cuda"), tmp_path / "cuda")
    for one, two in zip(lines(tmp_path / "cpu" / "log.jsonl"), lines(tmp_path / "cuda" / "log.jsonl"), strict=True):
        if one["type"] == "train":
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-3)
    assert read(tmp_path / "cuda" / "ranks.json")["live_components"] == 12


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("step", [3, 11, 17])
def test_a_run_that_was_cut_ends_with_the_same_bytes(
    make_recipe: MakeRecipe, tmp_path: Path, precision: str, step: int
) -> None:
    """In warm-up, at the freeze and after compaction; with CUDA's own random state, and the scaler's under fp16."""
    recipe = make_recipe(
        "train.device=cuda",
        f"train.precision={precision}",
        "train.deterministic=true",
        *SAVES,
        "train.batch_size=4",
        "train.gradient_accumulation=2",
        "data.group_by_length=true",
    )
    train(recipe, tmp_path / "straight")
    cut(recipe, tmp_path / "run", step=step)
    torch.cuda.manual_seed(step)  # what this process had drawn must not matter
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_ordinary_step_never_waits_for_the_device(precision: str) -> None:
    """CUDA reports every synchronising call; none may happen in steps without an event, before and after the freeze."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
            self.head = nn.Linear(32, 2)

        def forward(self, x: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.head(self.blocks(x).relu()))

    device = torch.device("cuda")
    accelerator = make_accelerator(device, precision)
    model = Model().to(device)
    model.requires_grad_(False)
    method = new_dora(rank=2, prune_interval=5)
    projections = {f"blocks.{index}": module for index, module in enumerate(model.blocks)}
    schedule = method.plan(40, sites(projections))
    head = list(model.head.requires_grad_(True).parameters())
    method.attach(model, sites(projections), head, schedule)
    optimizer = make_optimizer(method, learning_rate=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    step_function = TrainingStep(
        model=model, method=method, loss=lambda outputs,
        batch: nn.functional.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none"),
        optimizer=optimizer, scheduler=make_scheduler(optimizer, warmup_steps=2, total_steps=40),
        accelerator=accelerator, max_grad_norm=1.0,
    )  # fmt: skip
    batch = {"x": torch.randn(8, 32, device=device), "labels": torch.randint(2, (8,), device=device)}
    quiet = 0
    try:
        for step in range(1, STEPS + 17):
            event = schedule.next_event(step - 1) == step
            ordinary = not event and step > 1  # the first step makes the optimiser's state
            torch.cuda.set_sync_debug_mode("error" if ordinary else "default")
            report = step_function(step, [batch, batch], 16, event=event)
            assert report.event == event
            quiet += ordinary
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert quiet == 40 - 1 - sum(1 for event in schedule.events())
    assert method.frozen
