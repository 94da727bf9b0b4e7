"""One optimiser step where a loss, a gradient or a score is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.errors import DivergedError
from dora_cli.methods import Dora, Method
from dora_cli.methods.base import Statistic
from dora_cli.training.ledger import MAX_SKIPPED_FP16
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import new_dora, sites


def state_of(step: TrainingStep) -> list[torch.Tensor]:
    """Weights, moments with their step counters, and scores."""
    parameters = [parameter for group in step.optimizer.param_groups for parameter in group["params"]]
    moments = [
        value for parameter in parameters for _, value in sorted(step.optimizer.state.get(parameter, {}).items())
    ]
    scores = [step.method._selection.scores] if isinstance(step.method, Dora) else []
    return [tensor.detach().clone() for tensor in (*parameters, *moments, *scores)]


def test_an_event_on_scores_that_are_not_finite_changes_nothing() -> None:
    step_function = scaled_step(20)
    method = step_function.method
    assert isinstance(method, Dora)
    assert method.schedule is not None
    method._selection.scores[0, 1] = math.nan
    first = method.schedule.next_event(0)
    assert first is not None
    for step in range(1, first):
        method.advance(step)
    before = method._selection.keep.clone()
    with pytest.raises(DivergedError):
        method.advance(first)
    assert torch.equal(method._selection.keep, before)


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.block(x)))


def scaled_step(
    total: int,
    *,
    method: Method | None = None,
    settings: Mapping[str, Any] | None = None,
    scale: float | None = 2.0**16,
    averaged: AveragedSteps | None = None,
) -> TrainingStep:
    """A step under a loss scaler, which PyTorch has for the CPU too; its arithmetic is fp32 here."""
    model = _Model()
    model.block.requires_grad_(False)
    if method is None:
        method = new_dora(**({"rank": 2, "prune_interval": 5, "dropout": 0.0} | dict(settings or {})))
    projections = sites({"block": model.block})
    head = list(model.head.parameters())
    method.attach(model, projections, head, method.plan(total, projections))
    optimizer = make_optimizer(method, learning_rate=1e-3, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)

    class _Accelerator:
        device, num_processes, mixed_precision = torch.device("cpu"), 1, "no"
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)

        def autocast(self, handler: Any) -> Any:
            return torch.autocast("cpu", enabled=False)

    return TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=total),
        accelerator=_Accelerator(),  # type: ignore[arg-type]
        max_grad_norm=1.0,
        skip_nonfinite=0,
        averaged=averaged,
    )


def test_steps_that_the_fp16_scaler_skips_are_no_divergence() -> None:
    """25 in a row may be skipped, however often; the 26th in a row is the end, and the first of its row is named."""
    total = 200
    step_function = scaled_step(total)
    good = {"x": torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), "labels": torch.tensor([0, 1, 0, 1])}
    bad = {**good, "x": good["x"] * math.inf}
    step = 1
    step_function(step, [good], 4, event=False)  # makes the optimiser's moments
    for count in (1, MAX_SKIPPED_FP16, MAX_SKIPPED_FP16):
        for _ in range(count):
            step += 1
            before = state_of(step_function)
            step_function(step, [bad], 4, event=False)
            step_function.check(step)
            assert all(torch.equal(one, two) for one, two in zip(before, state_of(step_function), strict=True))
        step += 1
        before = state_of(step_function)[0]
        step_function(step, [good], 4, event=False)
        step_function.check(step)
        assert not torch.equal(before, state_of(step_function)[0])
    first = step + 1
    for _ in range(MAX_SKIPPED_FP16 + 1):
        step += 1
        step_function(step, [bad], 4, event=False)
    says = (
        rf"^training diverged: the loss or gradient norm of step {first} was not finite, at learning rate \S+; noticed "
        rf"at step {step}, and nothing was changed from that step on\. Lower train\.learning_rate, "
    )
    with pytest.raises(DivergedError, match=says):
        step_function.check(step)


def test_a_skipped_step_counts_in_an_average_with_the_weights_that_it_left() -> None:
    step_function = scaled_step(100, averaged=AveragedSteps(first=2, last=100, wanted=99, share=0.99))
    good = {"x": torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), "labels": torch.tensor([0, 1, 0, 1])}
    bad = {**good, "x": good["x"] * math.inf}
    weights, each = list(step_function.method.head), []
    for step, batch in enumerate((good, good, bad, bad, good), start=1):
        step_function(step, [batch], 4, event=False)
        each.append([weight.detach().double() for weight in weights])
    assert all(torch.equal(one, two) for one, two in zip(each[1], each[3], strict=True))
    assert step_function.averaging is not None
    assert step_function.averaging.count == 4
    with step_function.averaging.in_place():
        for weight, after in zip(weights, zip(*each[1:], strict=True), strict=True):
            torch.testing.assert_close(weight.double(), torch.stack(after).mean(0), rtol=0, atol=1e-6)


class _Reading(Method):
    """Sums what has nothing to do with gradients, is linear in them, and is their square; keeps what it is shown."""

    name = "reading"

    def place(self, model: nn.Module) -> None:
        self.block, self.sums, self.shown = model.block, [torch.zeros(()) for _ in range(3)], []
        self.scale = nn.Parameter(torch.ones(()))
        model.register_parameter("scale", self.scale)
        model.block.register_forward_hook(self._read)

    def parameters(self) -> list[nn.Parameter]:
        return [self.scale]

    def _read(self, block: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        scaled = output * self.scale
        self.sums[0] += inputs[0].detach().sum()
        scaled.register_hook(self._read_gradient)
        return scaled

    def _read_gradient(self, gradient: torch.Tensor) -> None:
        self.sums[1] += gradient.sum()
        self.sums[2] += gradient.square().sum()

    def statistics(self) -> list[Statistic]:
        return [Statistic(tensor, power) for power, tensor in enumerate(self.sums)]

    def adjust_gradients(self) -> torch.Tensor | None:
        self.shown.append([float(tensor) for tensor in self.sums])
        return None


def _shown(scale: float | None) -> list[float]:
    """What the method is shown of two micro-batches, the loss multiplied by `scale` meanwhile."""
    torch.manual_seed(0)
    step_function = scaled_step(10, method=_Reading(), scale=scale)
    generator = torch.Generator().manual_seed(1)
    batches = [{"x": torch.randn(4, 8, generator=generator), "labels": torch.tensor([0, 1, 0, 1])} for _ in range(2)]
    step_function(1, batches, 8, event=False)
    method = step_function.method
    assert isinstance(method, _Reading)
    assert [float(tensor) for tensor in method.sums] == [0, 0, 0]  # after the step, as gradients are
    return method.shown[0]


def test_statistics_are_unscaled_as_often_as_the_gradient_is_a_factor_in_them() -> None:
    plain = _shown(None)
    assert all(plain)
    assert _shown(2.0**12) == pytest.approx(plain, rel=1e-5)
