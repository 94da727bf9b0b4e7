"""Captured passes over the losses of generators against the same passes launched one by one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dora_cli import evaluate, train
from dora_cli.data import to_device
from dora_cli.data.pairs import IGNORED
from dora_cli.evaluation.passes import Run as Way
from dora_cli.evaluation.passes import directly, evaluation_mode, work_of
from dora_cli.machine.devices import make_accelerator
from dora_cli.machine.seeds import set_deterministic
from dora_cli.models import find_projections
from dora_cli.tasks import get_task
from dora_cli.training.capture.passes import FEW, CapturedPasses
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import new_dora
from tests.training.test_generation import models, recipe_of, tokenizer
from tests.training.test_tasks_and_models import MODELS

__all__ = ["models", "tokenizer"]  # fixtures
pytestmark = pytest.mark.gpu
FAMILIES = pytest.mark.parametrize("name", MODELS)
WIDTHS = (8, 16, 24, 32)
ROWS, STEPS = 6, 60
UNPADDED = 1
"""Which of `WIDTHS` no row of a batch falls short of."""


class Run:
    """A small generator under `TrainingStep`, and batches of four widths to evaluate it on, two of each.

    What is captured is dropped at events: the first comes at step 16 or 23, the last, the freeze, at step 30.
    """

    def __init__(self, name: str, device: str, *, graph: bool, precision: str = "fp32"):
        self.device = torch.device(device)
        torch.manual_seed(0)
        model = MODELS[name]()
        model.config.use_cache = False
        self.model = model.to(self.device).train().requires_grad_(False)
        self.method = new_dora(rank=3, start_rank=5, dropout=0.1, prune_interval=7, dem_until="end")
        projections = find_projections(self.model, ["attention", "ffn"])
        self.schedule = self.method.plan(STEPS, projections)
        self.method.attach(self.model, projections, [], self.schedule)
        optimizer = make_optimizer(self.method, learning_rate=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
        self.task = get_task("e2e")
        self.step = TrainingStep(
            model=self.model,
            method=self.method,
            loss=self.task.losses,
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=5, total_steps=STEPS),
            accelerator=make_accelerator(self.device, precision),
            max_grad_norm=1.0,
            cuda_graph=graph,
            evaluations=FEW,
        )
        self.dev = [self.batch(100 + number) for number in range(2 * len(WIDTHS))]
        self.done = 0
        torch.manual_seed(7)  # what dropout draws

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """On the CPU; rows of different lengths, but for the width in which all have the same."""
        kind = number % len(WIDTHS)
        width = WIDTHS[kind]
        ids = torch.randint(4, 1200, (ROWS, width), generator=torch.Generator().manual_seed(number))
        lengths = torch.full((ROWS,), width) if kind == UNPADDED else width - torch.arange(ROWS)
        real = torch.arange(width) < lengths[:, None]
        labels = ids.roll(-1, dims=1).where(real, IGNORED)
        batch = {"input_ids": ids.where(real, 0), "attention_mask": real.long()}
        if self.model.config.is_encoder_decoder:
            return batch | {"decoder_input_ids": batch["input_ids"].clone(), "labels": labels}
        labels[:, :2] = IGNORED  # the prompt
        return batch | {"labels": labels}

    def advance(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            self.done += 1
            batch = self.batch(self.done)
            units = int((batch["labels"] != IGNORED).sum())
            event = self.schedule.is_event(self.done)
            self.step(self.done, [to_device(batch, self.device)], units, event=event)
            losses.append(self.step.read(self.done).loss)
        return losses

    def evaluated(self, way: Way) -> list[torch.Tensor]:
        """The losses of every batch, on the device."""
        work = work_of(self.model, self.task.keep, self.step.accelerator, way)
        with evaluation_mode(self.model):
            return [way(work, to_device(batch, self.device)) for batch in self.dev]

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for group in self.step.optimizer.param_groups for parameter in group["params"]]

    @property
    def passes(self) -> CapturedPasses:
        assert isinstance(self.step.run_evaluation, CapturedPasses)
        return self.step.run_evaluation

    @property
    def evaluation_graphs(self) -> int:
        assert self.step._graphs is not None
        return sum(isinstance(key, tuple) and key[0] == "evaluation" for key in self.step._graphs._graphs)


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@FAMILIES
def test_captured_losses_are_the_eager_ones(name: str, precision: str) -> None:
    """To the bit, as both run the same kernels: with padding and without, before, between and after events that have
    all captured anew.
    """
    run = Run(name, "cuda", graph=True, precision=precision)
    before: list[torch.Tensor] = []
    for _ in range(6):
        found, expected = run.evaluated(run.passes), run.evaluated(directly)
        assert not any(torch.equal(one, two) for one, two in zip(found, before, strict=False)), "weights have changed"
        before = found
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
        assert all(one.shape == (ROWS,) and bool(one.isfinite().all()) for one in found)
        run.advance(7)
        assert run.evaluated(run.passes)[0].shape == (ROWS,)
        assert run.evaluation_graphs == len(WIDTHS)
    assert run.method.frozen


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_training_goes_on_as_after_an_eager_evaluation(name: str) -> None:
    """With the same bits, and as if there had been none."""

    def trained(way: str) -> tuple[list[float], list[torch.Tensor], torch.Tensor]:
        run = Run(name, "cuda", graph=True)
        losses = []
        for _ in range(4):
            losses += run.advance(10)
            if way != "none":
                run.evaluated(run.passes if way == "captured" else directly)
            assert run.evaluation_graphs == (len(WIDTHS) if way == "captured" else 0)
        return losses, run.weights(), torch.cuda.get_rng_state()

    set_deterministic(True)
    try:
        expected = trained("eager")
        for way in ("captured", "none"):
            losses, weights, random = trained(way)
            assert losses == expected[0]
            assert all(torch.equal(one, two) for one, two in zip(weights, expected[1], strict=True))
            assert torch.equal(random, expected[2])
    finally:
        set_deterministic(False)


@pytest.mark.parametrize("captured", [False, True])
@FAMILIES
def test_an_evaluation_never_waits_for_the_device(name: str, captured: bool) -> None:
    """From batches on the CPU to losses on the device, and not even where nothing is padded."""
    run = Run(name, "cuda", graph=True)
    way = run.passes if captured else directly
    run.evaluated(way)  # captures
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = run.evaluated(way)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(torch.stack(found).isfinite().all())


def pools() -> dict[range, tuple[int, int]]:
    """Which pool every piece of the device's memory belongs to, by its addresses; ``(0, 0)`` is that of eager work."""
    return {
        range(segment["address"], segment["address"] + segment["total_size"]): tuple(segment["segment_pool_id"])
        for segment in torch.cuda.memory_snapshot()
    }


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_evaluations_have_the_memory_of_the_steps(name: str) -> None:
    """No other than that of their graphs, and no more of it from one evaluation to the next; what is handed out lies
    outside of it.
    """
    before = set(pools().values())  # earlier tests may have left some
    run = Run(name, "cuda", graph=True)
    assert run.step._graphs is not None
    run.advance(2 * len(WIDTHS))  # before the first event: all that is captured stays
    for _ in range(2):
        run.evaluated(run.passes)
    torch.cuda.synchronize()
    reserved, now = torch.cuda.memory_reserved(), pools()
    assert set(now.values()) - before - {(0, 0)} == {tuple(run.step._graphs._pool)}
    for kept in run.passes._kept.values():
        assert [pool for addresses, pool in now.items() if kept.data_ptr() in addresses] == [(0, 0)]
    for _ in range(5):
        run.evaluated(run.passes)
    assert torch.cuda.memory_reserved() == reserved
    assert len(run.passes._kept) == run.evaluation_graphs == len(WIDTHS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@FAMILIES
def test_captured_losses_are_found_again_by_eval(
    models: dict[str, Path], tmp_path: Path, name: str, precision: str
) -> None:
    """Whose passes are launched one by one."""
    overrides = ("train.device=cuda", "train.cuda_graph=on", f"train.precision={precision}", "train.epochs=4")
    dev = ("decode.split=none", "decode.epoch_samples=2", "data.max_eval_samples=30", "eval.select=last")
    train(recipe_of(models[name], *overrides, *dev), tmp_path / "run")
    found: Any = evaluate(tmp_path / "run")
    assert found["recorded"].keys() == {"loss", "perplexity"}
    assert found["identical"] is True
