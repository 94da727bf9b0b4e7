"""A pass before the first step, for the sake of the kernels that are compiled then: nothing else comes of it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from dora_cli.training import ahead
from dora_cli.training.ahead import compile_ahead, pass_in_vain
from dora_cli.training.step import TrainingStep
from tests.training.test_step import scaled_step, state_of

BATCH = {"x": torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), "labels": torch.tensor([0, 1, 0, 1])}
WORTHLESS = {**BATCH, "x": BATCH["x"] * math.nan}


def in_vain(step: TrainingStep) -> None:
    step.method.begin_step(1, 1e-3)
    work, zero = partial(step._forward_backward, WORTHLESS), (step.ledger.loss, *step._statistics())
    pass_in_vain(work, step._parameters, zero, nullcontext())


@pytest.mark.parametrize("method", [{}, {"score": "kfac"}], ids=["plain", "with statistics"])
def test_nothing_comes_of_it(method: dict[str, Any]) -> None:
    states = []
    for arm in (False, True):
        step = scaled_step(20, settings={**method, "dropout": 0.5}, scale=None)
        torch.manual_seed(3)
        if arm:
            in_vain(step)
            assert bool(method) == bool(step._statistics())
        for number in (1, 2, 3):
            step(number, [BATCH], 4, event=False)
        step.check(3)
        states.append([*state_of(step), torch.get_rng_state()])
    for one, two in zip(*states, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=False)


def test_parameters_that_it_is_the_first_to_reach_count_as_not_reached() -> None:
    """An optimiser leaves alone what has no gradient, weight decay included."""
    step = scaled_step(20, scale=None)
    first, *others = step._parameters
    first.grad = torch.zeros_like(first)
    in_vain(step)
    assert first.grad is not None
    assert not first.grad.any()
    assert all(parameter.grad is None for parameter in others)


def test_once_for_runs_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_compiled", {"known"})
    monkeypatch.setattr(ahead, "triton_obstacle", lambda: "there is none")

    def work() -> None:
        raise AssertionError

    for kind in ("known", "another"):  # no Triton: nothing to compile
        compile_ahead(work, kind, [], [])
    assert ahead._compiled == {"known"}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_step_finds_its_kernels_compiled(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from dora_cli.methods.low_rank import triton_kernels
    from dora_cli.methods.low_rank.same_input import triton_many
    from tests.training.test_captured import Run

    if not hasattr(triton, "AsyncCompileMode"):
        pytest.skip("this Triton compiles one kernel after the other")
    for module in (triton_kernels, triton_many):
        for kernel in vars(module).values():
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()
    monkeypatch.setattr(ahead, "_compiled", set())
    when: list[tuple[str, bool]] = []
    passing = [False]
    vain = ahead.pass_in_vain

    def noted(*args: Any) -> None:
        passing[0] = True
        vain(*args)
        passing[0] = False

    monkeypatch.setattr(ahead, "pass_in_vain", noted)
    monkeypatch.setattr(
        triton.knobs.runtime,
        "jit_post_compile_hook",
        lambda *, fn, **_: when.append((f"{fn.module}.{fn.name}", passing[0])),
    )
    run = Run(graph=False, precision=precision, dropout=0.1)
    run.step(1, [run.batch(0)], 8, event=False)
    of_passes = [(name, early) for name, early in when if "low_rank.triton_kernels" in name or "same_input" in name]
    assert {name.rsplit(".", 1)[1] for name, _ in of_passes} >= {"_down", "_up", "_outer", "_collect", "_collect_gated"}
    assert all(early for _, early in of_passes)


@pytest.mark.gpu
def test_steps_after_it_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.test_captured import Run

    states = []
    for arm in (set[Any](), _Everything()):
        monkeypatch.setattr(ahead, "_compiled", arm)
        run = Run(graph=False, precision="bf16", dropout=0.1)
        for number in (1, 2, 3):
            run.step(number, [run.batch(number)], 8, event=False)
        run.step.check(3)
        states.append(state_of(run.step))
    for one, two in zip(*states, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


class _Everything(set[Any]):
    def __contains__(self, kind: object) -> bool:
        return True
