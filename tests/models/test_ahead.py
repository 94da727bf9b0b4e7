"""A pass before the first step, for the sake of the kernels that are compiled then: nothing else comes of it."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dora_cli.models import ahead
from dora_cli.models.ahead import compile_ahead, pass_in_vain
from dora_cli.training import step as step_module
from dora_cli.training.step import TrainingStep
from tests.training.test_step import scaled_step, state_of

BATCH = {"x": torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), "labels": torch.tensor([0, 1, 0, 1])}
WORTHLESS = {**BATCH, "x": BATCH["x"] * math.nan}


def in_vain(step: TrainingStep, batch: Mapping[str, torch.Tensor] = WORTHLESS) -> None:
    step.method.begin_step(1, 1e-3)
    zero = step.ledger.loss, *step._statistics()
    pass_in_vain(partial(step._announce, batch), step.model, step._parameters, zero, nullcontext())


@pytest.mark.parametrize("method", [{"dem_weight": 0.1}, {"score": "kfac"}], ids=["plain", "with statistics"])
def test_nothing_comes_of_it(method: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever draws in it, and by whichever generator."""
    states = []
    for arm in (False, True):
        step = scaled_step(20, settings={**method, "dropout": 0.5}, scale=None)
        step.model.register_buffer("seen", torch.zeros(()))
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(3)
        if arm:
            with monkeypatch.context() as patched:
                announced = _announcing(step, patched)
                in_vain(step)
            assert announced == ["method", "ledger", "update"]
            assert ("score" in method) == bool(step._statistics())
        for number in (1, 2, 3):
            step(number, [BATCH], 4, event=False)
        step.check(3)
        drawn = torch.tensor([random.random(), np.random.rand()])
        states.append([*state_of(step), *step.model.buffers(), torch.get_rng_state(), drawn])
    for one, two in zip(*states, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=False)


def _announcing(step: TrainingStep, patched: pytest.MonkeyPatch) -> list[str]:
    """Who announces, in turn; the method draws besides, and counts."""
    found: list[str] = []
    own = step.method.announce

    def announce() -> None:
        found.append("method")
        own()
        _draw(step)

    patched.setattr(step.method, "announce", announce)
    patched.setattr(step.ledger, "announce", lambda: found.append("ledger"))
    patched.setattr(step._update_weights, "announce", lambda most: found.append("update"))
    return found


def _draw(step: TrainingStep) -> None:
    """The code of strangers may, and batch norms count."""
    random.random()
    np.random.rand()
    step.model.get_buffer("seen").add_(1)


def test_a_pass_that_fails_leaves_nothing_behind_either() -> None:
    step = scaled_step(20, scale=None)
    step(1, [BATCH], 4, event=False)

    def fail() -> None:
        step._forward_backward(WORTHLESS)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        pass_in_vain(fail, step.model, step._parameters, [step.ledger.loss], nullcontext())
    assert not any(parameter.grad.any() for parameter in step._parameters if parameter.grad is not None)
    assert float(step.ledger.loss) == 0


def test_methods_that_do_not_say_so_have_no_pass_more() -> None:
    step = scaled_step(20, scale=None)
    passes = []
    step._forward_backward = passes.append  # type: ignore[method-assign]
    for announces in (True, False):
        step.method.announces = announces  # type: ignore[misc]
        in_vain(step, BATCH)
    assert passes == [BATCH]


def test_steps_that_clip_are_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """They launch another kernel, and say so."""
    kinds, told = [], list[float | None]()
    monkeypatch.setattr(step_module, "compile_ahead", lambda work, kind, *_: kinds.append(kind) or work())
    for most in (None, 1.0, 1.0):
        step = scaled_step(20, scale=None)
        step.max_grad_norm = most
        monkeypatch.setattr(step._update_weights, "announce", told.append)
        step._compile_ahead(BATCH)
    assert told == [None, 1.0, 1.0]
    assert kinds[0] != kinds[1] == kinds[2]


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
    """And where Triton launches, which here is said of it."""
    done: list[Any] = []
    monkeypatch.setattr(ahead, "_compiled", set())
    monkeypatch.setattr(ahead, "pass_in_vain", lambda work, *_: done.append(work))
    launches = SimpleNamespace(announced=lambda pool: nullcontext(), can_announce=lambda: True)
    monkeypatch.setitem(sys.modules, "dora_cli.methods.triton_launch", launches)
    parameters = [nn.Parameter(torch.zeros(1))]

    def ask(number: int, kind: str) -> None:
        compile_ahead(number, kind, nn.Linear(1, 1), parameters, [])  # type: ignore[arg-type]

    ask(0, "a kind")  # on a CPU
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(ahead, "takes_triton", lambda device: True)
    for number, kind in enumerate(("a kind", "a kind", "another"), start=1):
        ask(number, kind)
    launches.can_announce = lambda: False
    ask(4, "a third")
    assert done == [1, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_step_finds_its_kernels_compiled(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from dora_cli.methods.dora import triton_importance
    from dora_cli.methods.low_rank.allocation import triton_scores
    from dora_cli.methods.low_rank.arithmetic import triton_kernels
    from dora_cli.methods.low_rank.same_input import triton_many
    from dora_cli.training.update import triton_adamw, triton_ledger
    from tests.training.test_captured import Run

    if not hasattr(triton, "AsyncCompileMode"):
        pytest.skip("this Triton compiles one kernel after the other")
    for module in (triton_kernels, triton_many, triton_importance, triton_scores, triton_adamw, triton_ledger):
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
    for number in (1, 2):
        run.step(number, [run.batch(0)], 8, event=False)
    found = {name.rsplit(".", 1)[1] for name, _ in when}
    wanted = (
        "_prepare",
        "_down",
        "_up",
        "_outer",
        "_collect",
        "_collect_gated",
        "_variance_gradients",
        "_published",
        "_judge",
        "_norm",
        "_adamw",
        "_count",
    )
    assert found >= set(wanted)
    assert [name for name, early in when if not early] == []


@pytest.mark.gpu
def test_steps_after_it_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from tests.training.test_captured import Run

    if not hasattr(triton, "AsyncCompileMode"):
        pytest.skip("this Triton compiles one kernel after the other")
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
