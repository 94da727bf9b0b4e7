"""Passes with columns of `B` beside the frozen weights are those without: here on the CPU under autocast, where weights
are copied, by plain operations that are told to.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from dora_cli.methods.low_rank import lean as lean_module
from dora_cli.methods.low_rank.beside import Beside, room_for
from dora_cli.methods.low_rank.factor import Factor
from dora_cli.methods.low_rank.kernels import TorchKernels
from dora_cli.methods.low_rank.lean import LeanPass
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.methods.low_rank.test_branches import TOGETHER, Run

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


class Watched(Run):
    """Counts the products `down` of a pass, and keeps what the pass shares."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.model.float()

    @property
    def lean(self) -> LeanPass:
        found = self.method._adapters._passes._lean  # type: ignore[attr-defined]
        assert found is not None
        return found

    def gradients(self, passes: int = 1) -> list[torch.Tensor]:
        torch.manual_seed(3)
        for _ in range(passes):
            with self.method.training_pass(torch.bfloat16):
                with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                    loss = self.loss(self.model)
                loss.backward()
        found = [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]
        for parameter in self.parameters:
            parameter.grad = None
        return found


def compute_with(monkeypatch: pytest.MonkeyPatch, *, together: bool, beside: bool) -> list[torch.Size]:
    """Which kernels passes have from here on; gives the shapes of what their `down` reads."""
    made, seen = TogetherKernels if together else TorchKernels, list[torch.Size]()

    def kernels(device: torch.device, *_: object) -> TorchKernels:
        found = made(device)
        found.beside = beside
        one = found.made._one if isinstance(found, TogetherKernels) else found
        down = one.down

        def noted(x: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
            seen.append(x.shape)
            return down(x, *given, **more)

        one.down = noted  # type: ignore[method-assign]
        if one is not found:
            found.down = noted  # type: ignore[method-assign]
        return found

    monkeypatch.setattr(lean_module, "kernels_for", kernels)
    return seen


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Up to the rounding of bf16."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) < 2e-2 * float(other.norm())
        assert float(other.norm()) > 0


@TOGETHER
def test_gradients_are_those_without_columns(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And `down` is called forward alone, once a projection, except where nobody wants the input's gradient."""
    counts, found = [], []
    for beside in (False, True):
        calls = compute_with(monkeypatch, together=together, beside=beside)
        run = Watched()
        run.gradients()  # what reads the same input is looked for
        calls.clear()
        found.append(run.gradients())
        counts.append(len(calls))
    close(found[1], found[0])
    first = 3  # the first block's queries, keys and values read what nothing trains before
    layers = len(run.lean.layers)
    assert counts == [2 * layers, layers + first]


@TOGETHER
def test_columns_follow_factors_and_bases(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients(beside: bool) -> list[list[torch.Tensor]]:
        compute_with(monkeypatch, together=together, beside=beside)
        run, found = Watched(), []
        found.append(run.gradients(2))
        with torch.no_grad():
            for parameter in run.parameters:
                parameter.mul_(-0.5)
        found.append(run.gradients())
        with torch.no_grad():
            run.lean.layers[1].base.weight.mul_(2)
        found.append(run.gradients())
        return found

    for one, other in zip(gradients(True), gradients(False), strict=True):
        close(one, other)


@TOGETHER
def test_weights_are_stored_once(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, together=together, beside=True)
    run = Watched()
    run.gradients()
    for _, lean in run.lean._lean:
        assert lean.beside is not None
        d_out, d_in = lean.layer.base.weight.shape
        assert lean.weight.shape == (d_out, d_in)
        assert lean.weight.data_ptr() == lean.beside.whole.data_ptr()
        assert torch.equal(lean.beside.columns, lean.B_t.rows.T)
        rooms = lean.beside.whole.shape[1] - d_in
        assert rooms == room_for(3) * (3 if together and lean.together() is not None else 1)
        assert float(lean.beside.whole[:, d_in:].abs().sum()) == float(lean.beside.columns.abs().sum())


def test_weights_that_need_no_copy_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_with(monkeypatch, together=True, beside=True)
    run = Watched()
    run.model.to(torch.bfloat16)
    run.gradients()
    for _, lean in run.lean._lean:
        assert lean.beside is None
        assert lean.weight.data_ptr() == lean.layer.base.weight.data_ptr()


# -- the kernel --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not INTERPRETED, reason="of Triton's interpreter")
def test_all_columns_are_written_at_once_in_the_interpreter() -> None:
    _all_columns()


@pytest.mark.gpu
def test_all_columns_are_written_at_once() -> None:
    _all_columns()


def _all_columns() -> None:
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank.triton_beside import ManyColumns

    there = []
    for rank, d_out, d_in in ((3, 200, 24), (16, 64, 40), (5, 129, 8)):
        factor = torch.randn(rank, d_out).to(DEVICE, torch.float16)
        whole = torch.zeros(d_out, d_in + room_for(rank), dtype=torch.float16, device=DEVICE)
        there.append(Beside(whole, d_in, Factor(factor, rank)))
    write = ManyColumns([(one.factor.rows, one.columns) for one in there])
    for _ in range(2):
        write()
        for one in there:
            assert torch.equal(one.columns, one.factor.rows.T)
            assert float(one.whole.abs().sum()) == float(one.columns.abs().sum())
            one.factor.ready.neg_()
