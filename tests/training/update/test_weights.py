"""Clipping and AdamW in blocks against PyTorch's: on a GPU, or anywhere in Triton's interpreter."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli import train
from dora_cli.recipe import parse_recipe
from dora_cli.training import ledger
from dora_cli.training.optimizer import rates_on_device
from dora_cli.training.update import weights
from dora_cli.training.update.weights import Update
from tests.runs.test_resume import assert_equal_runs, cut

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
kernels = pytest.mark.usefixtures("_triton") if INTERPRETED else pytest.mark.gpu
SHAPES = ((3, 700), (1,), (1025,), (5, 4, 3))
RATES, DECAYS = (3e-3, 5e-2), (0.1, 0.0)
SETTINGS: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-6}


@pytest.fixture
def _triton() -> None:
    pytest.importorskip("triton")


def optimizer_of(parameters: Sequence[nn.Parameter], device: torch.device, **more: Any) -> torch.optim.AdamW:
    """Two groups of other rates and decays; the first holds two tensors."""
    groups = [{"params": list(part)} for part in (parameters[:2], parameters[2:])]
    given = {"fused": True, **SETTINGS, **more}
    made = torch.optim.AdamW(
        [{**group, "weight_decay": decay} for group, decay in zip(groups, DECAYS, strict=True)], **given
    )
    rates_on_device(made, device)
    for group, rate in zip(made.param_groups, RATES, strict=True):
        group["lr"].fill_(rate)
    return made


def parameters_on(device: torch.device, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """The first lies in memory column by column, as `B` does; the others row by row."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(device, dtype) for shape in SHAPES]
    return [nn.Parameter(made[0].T.contiguous().T), *map(nn.Parameter, made[1:])]


def give_gradients(parameters: Sequence[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.grad = torch.empty_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad.copy_(drawn)


@kernels
def test_steps_in_blocks_are_pytorchs() -> None:
    """In float64 by PyTorch, with clipping; a step that is skipped changes nothing, counters included."""
    from dora_cli.training.update.triton_adamw import Blocks, tensors_of

    ours, theirs = parameters_on(DEVICE), parameters_on(torch.device("cpu"), torch.float64)
    optimizer, reference = optimizer_of(ours, DEVICE), optimizer_of(theirs, torch.device("cpu"), fused=False)
    for group, rate in zip(reference.param_groups, RATES, strict=True):
        group["lr"] = rate
    for number in range(1, 6):
        for parameters in (ours, theirs):
            give_gradients(parameters, number)
        found = tensors_of(optimizer)
        assert found is not None
        blocks = Blocks(optimizer.param_groups[0], found, DEVICE)
        norm = blocks.clip(5.0)
        torch.testing.assert_close(norm.cpu().double(), nn.utils.clip_grad_norm_(theirs, 5.0), rtol=1e-5, atol=0)
        if number == 3:
            ours[0].grad.fill_(math.nan)  # type: ignore[union-attr]
        blocks.step(torch.tensor(number == 3, device=DEVICE))
        if number != 3:
            reference.step()
        blocks.clear()
        assert not any(parameter.grad.any() for parameter in ours if parameter.grad is not None)
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.detach().cpu().double(), two.detach(), rtol=1e-5, atol=1e-6)
    for one, two in zip(ours, theirs, strict=True):
        for key, value in optimizer.state[one].items():
            wanted = reference.state[two][key].double()
            torch.testing.assert_close(value.cpu().double(), wanted, rtol=1e-4, atol=1e-7)


@kernels
@pytest.mark.parametrize("most", [None, 1.1, 1.0, 1e9])
@pytest.mark.parametrize("value", [2.0, 0.0, math.inf, math.nan])
def test_clipping_is_pytorchs_to_the_bit(value: float, most: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the norm of whole numbers, whose squares have the same sum in any order, and of such numbers times a small
    power of two; weights stay, as the step is skipped: gradients do not.
    """
    from dora_cli.training.update import triton_adamw

    monkeypatch.setattr(triton_adamw, "SUMS", 2)  # of the seven blocks of all
    parameters, before = parameters_on(DEVICE), parameters_on(DEVICE)
    optimizer = optimizer_of(parameters, DEVICE)
    give_gradients(parameters, 1)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in gradients:
        gradient.mul_(3 * bool(value)).round_()
    gradients[1].fill_(value)
    if most == 1.1:  # a norm that what is added to it, 1e-6, changes, and a limit that no other division rounds alike
        most *= 2.0**-16
        for gradient in gradients:
            gradient.mul_(2.0**-16)
    drawn = [gradient.cpu().clone() for gradient in gradients]
    wanted = sum((gradient**2).sum() for gradient in drawn).sqrt()  # type: ignore[union-attr]
    factor = torch.ones(()) if most is None else (most / (wanted + 1e-6)).clamp(max=1.0)
    found = triton_adamw.tensors_of(optimizer)
    assert found is not None
    blocks = triton_adamw.Blocks(optimizer.param_groups[0], found, DEVICE)
    norm = blocks.clip(most)
    assert norm.shape == ()
    blocks.step(torch.tensor(True, device=DEVICE))
    to_the_bit: Any = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(norm.cpu(), wanted, **to_the_bit)
    for ours, theirs in zip(gradients, drawn, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs * factor, **to_the_bit)
    assert all(torch.equal(one, two) for one, two in zip(parameters, before, strict=True))


@pytest.mark.parametrize("case", ["as it is", "no moments yet", "amsgrad", "betas differ", "float64", "gaps"])
def test_what_can_be_in_blocks(case: str) -> None:
    pytest.importorskip("triton")
    from dora_cli.training.update.triton_adamw import tensors_of

    cpu = torch.device("cpu")
    parameters = parameters_on(cpu, torch.float64 if case == "float64" else torch.float32)
    if case == "gaps":
        parameters[0] = nn.Parameter(torch.zeros(4, 6)[:, ::2])
    optimizer = optimizer_of(parameters, cpu, fused=False, amsgrad=case == "amsgrad", capturable=False)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    give_gradients(parameters, 1)
    parameters[3].grad = None
    if case != "no moments yet":
        optimizer.step()
    if case == "betas differ":
        optimizer.param_groups[1]["betas"] = (0.5, 0.9)
    found = tensors_of(optimizer)
    assert (found is None) is (case not in ("as it is", "no moments yet"))
    if found is not None:
        assert [parameter is one for parameter, (one, *_) in zip(parameters, found, strict=False)] == [True] * 3
        assert all(set(optimizer.state[one]) == {"step", "exp_avg", "exp_avg_sq"} for one, *_ in found)
        assert parameters[3] not in optimizer.state


def test_tensors_that_moved_are_seen() -> None:
    pytest.importorskip("triton")
    from dora_cli.training.update.triton_adamw import addresses

    parameters = parameters_on(torch.device("cpu"))
    optimizer = optimizer_of(parameters, torch.device("cpu"), fused=False, foreach=False, capturable=False)
    give_gradients(parameters, 1)
    before = addresses(optimizer)
    give_gradients(parameters, 2)
    assert addresses(optimizer) == before
    parameters[1].grad = torch.zeros_like(parameters[1])
    moved = addresses(optimizer)
    assert moved != before
    optimizer.param_groups[0]["weight_decay"] = 0.5
    decayed = addresses(optimizer)
    assert decayed != moved
    optimizer.param_groups[0]["betas"] = (0.1, 0.5)
    assert addresses(optimizer) != decayed


def test_on_a_cpu_pytorch_does_it() -> None:
    device = torch.device("cpu")
    ours, theirs = parameters_on(device), parameters_on(device)
    optimizer, reference = (optimizer_of(parameters, device) for parameters in (ours, theirs))
    for one in (optimizer, reference):
        for group, rate in zip(one.param_groups, RATES, strict=True):
            group["lr"] = rate
    update = Update(optimizer, device, scaled=False, captured=False)
    more = torch.ones(3)
    for number in range(1, 4):
        for parameters in (ours, theirs):
            give_gradients(parameters, number)
        norm = update.clip(ours, 2.0)
        assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, 2.0))
        update.step(torch.tensor(False))
        reference.step()
        update.clear(ours, [more])
        assert not any(parameter.grad.any() for parameter in ours if parameter.grad is not None)
        assert not more.any()
        update.clear(ours, [])
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


class Own(torch.optim.AdamW):
    """A method of another package may have such a one."""


@pytest.mark.parametrize("case", ["plain", "own", "hooked", "hooked later", "scaled"])
def test_whose_step_must_be_called_is_called(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is said to be there, but nothing is launched: only which way is taken."""
    device, parameters = torch.device("cpu"), parameters_on(torch.device("cpu"))
    optimizer = optimizer_of(parameters, device)
    if case == "own":
        optimizer = Own(parameters, lr=0.1, fused=True)
    if case == "hooked":
        optimizer.register_step_post_hook(lambda *_: None)
    monkeypatch.setattr(weights, "takes_triton", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    pytest.importorskip("triton")
    update = Update(optimizer, device, scaled=case == "scaled", captured=False)
    give_gradients(parameters, 1)
    found = update._found()
    if case == "hooked later":
        optimizer.register_step_post_hook(lambda *_: None)
        found = update._present()
    assert (found is not None) is (case == "plain")


@kernels
def test_gradients_that_were_replaced_after_the_step_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "takes_triton", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    parameters = parameters_on(DEVICE)
    update = Update(optimizer_of(parameters, DEVICE), DEVICE, scaled=False, captured=False)
    give_gradients(parameters, 1)
    update.clip(parameters, 1.0)
    update.step(torch.tensor(False, device=DEVICE))
    parameters[1].grad = torch.ones_like(parameters[1])
    update.clear(parameters, [])
    assert not any(parameter.grad.any() for parameter in parameters if parameter.grad is not None)


@kernels
@pytest.mark.parametrize("method", ["dora, rank: 2, prune_interval: 3", "adalora, rank: 2"])
def test_a_run_in_blocks_goes_on_to_the_bit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through cuts, from a checkpoint of every step; and ends where the run ends whose update is PyTorch's, and whose
    ledger is kept by plain operations.
    """
    from dora_cli.training.update.triton_adamw import Blocks

    where = f"device: {DEVICE.type}, threads: 1, cuda_graph: off"
    recipe = parse_recipe(f"""
        task: glue/sst2
        model: {{name: "builtin:tiny-encoder"}}
        data: {{source: builtin, max_train_samples: 64, max_eval_samples: 16}}
        method: {{name: {method}}}
        train: {{batch_size: 16, epochs: 3, learning_rate: 5.0e-3, log_every: 2, {where}}}
        save: {{every_steps: 1}}
    """)
    if INTERPRETED:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for room in (weights, ledger):
        monkeypatch.setattr(room, "takes_triton", lambda _: False)
    train(recipe, tmp_path / "plain")
    for room in (weights, ledger):
        monkeypatch.setattr(room, "takes_triton", lambda _: True)
    steps, step = [], Blocks.step
    monkeypatch.setattr(Blocks, "step", lambda self, skipped: (steps.append(1), step(self, skipped))[1])
    train(recipe, tmp_path / "straight")
    assert len(steps) == 12
    cut(recipe, tmp_path / "run", step=7)
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "run", tmp_path / "straight")
    losses = [
        [epoch["train_loss"] for epoch in json.loads((tmp_path / run / "metrics.json").read_text())["epochs"]]
        for run in ("plain", "straight")
    ]
    # not the weights: what is rounding alone of a gradient, AdamW makes a step of its own
    assert losses[1] == pytest.approx(losses[0], rel=3e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("most", [None, 1.0])
def test_all_steps_are_in_blocks(most: float | None) -> None:
    """Also where tensors were replaced; each step is PyTorch's up to rounding."""
    ours, theirs = parameters_on(DEVICE), parameters_on(DEVICE)
    optimizer, reference = (optimizer_of(parameters, DEVICE) for parameters in (ours, theirs))
    update = Update(optimizer, DEVICE, scaled=False, captured=False)
    for group, rate in zip(optimizer.param_groups, RATES, strict=True):
        group["lr"].fill_(rate)
    used = []
    for number in range(1, 7):
        if number == 4:  # as after a cut
            ours[1].grad = None
        for parameters in (ours, theirs):
            give_gradients(parameters, number)
        norm = update.clip(ours, most)
        used.append(update._blocks is not None)
        wanted = nn.utils.clip_grad_norm_(theirs, math.inf if most is None else most)
        torch.testing.assert_close(norm, wanted, rtol=1e-5, atol=0)
        update.step(torch.tensor(False, device=DEVICE))
        reference.step()
        update.clear(ours, [])
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert used == [True] * 6


@pytest.mark.gpu
def test_captured_updates_are_the_eager_ones_to_the_bit() -> None:
    from dora_cli.machine.graphs import Graphs

    states = []
    for graphs in (None, Graphs("an update", "none")):
        parameters = parameters_on(DEVICE)
        optimizer = optimizer_of(parameters, DEVICE)
        update = Update(optimizer, DEVICE, scaled=False, captured=graphs is not None)
        for group, rate in zip(optimizer.param_groups, RATES, strict=True):
            group["lr"].fill_(rate)
        skipped = torch.zeros((), dtype=torch.bool, device=DEVICE)

        def work(_: Any, parameters: Any = parameters, update: Update = update, skipped: Any = skipped) -> None:
            update.clip(parameters, 1.0)
            update.step(skipped)
            update.clear(parameters, [])

        for number in range(1, 7):
            give_gradients(parameters, number)
            skipped.fill_(number == 4)
            if graphs is None:
                work({})
            else:
                graphs.run("update", work, {})
        states.append([*parameters, *(value for one in parameters for value in optimizer.state[one].values())])
    assert all(torch.equal(one, two) for one, two in zip(*states, strict=True))
