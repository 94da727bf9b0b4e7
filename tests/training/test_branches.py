"""Captured steps whose passes have branches against those of one stream."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from dora_cli.machine.graphs import EAGER_FIRST, Graphs
from dora_cli.methods.low_rank.lean.branches import CudaStreams
from dora_cli.models.fused.fused_blocks import FusedBlocks
from tests.training import test_together
from tests.training.test_together import FAMILIES, METHODS, PRECISIONS, ROWS, Run

pytestmark = pytest.mark.gpu
REPLAYS = 4


@pytest.fixture(name="launched")
def _launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The streams that were launched into, other than the model's."""
    found, plain = list[Any](), CudaStreams.into

    def into(self: CudaStreams, stream: Any) -> Any:
        found.append(stream)
        return plain(self, stream)

    monkeypatch.setattr(CudaStreams, "into", into)
    return found


def run_of(family: str, name: str, precision: str, *, serial: bool, fused: bool = False) -> Run:
    run = Run(family, name, precision, single=False, graph=True)
    run.passes.serial = serial
    if fused:
        run.step.fused = FusedBlocks(run.model, run.method.sites, note=pytest.fail)
    return run


def kept(run: Run) -> list[torch.Tensor]:
    """All that a step changes: weights and moments."""
    states = run.step.optimizer.state.values()
    moments = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return [*(one for group in run.method.groups() for one in group.parameters), *moments]


@pytest.mark.parametrize("name", METHODS)
@PRECISIONS
@FAMILIES
def test_gradients_are_those_of_one_stream(family: str, precision: str, name: str, launched: list[Any]) -> None:
    """To the bit, in every replay, dropout on."""
    found = []
    for serial in (True, False):
        run = run_of(family, name, precision, serial=serial)
        torch.manual_seed(7)
        found.append(run.gradients(EAGER_FIRST + REPLAYS, Graphs("a pass", "report it")))
        assert bool(launched) is not serial
    assert len(set(launched)) == 1
    for one, two in zip(*found, strict=True):
        assert len(one) == len(two) > 0
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, two, strict=True))
        assert all(float(gradient.norm()) > 0 for gradient in one)


@pytest.mark.parametrize("name", METHODS)
@PRECISIONS
@FAMILIES
def test_steps_are_those_of_one_stream(family: str, precision: str, name: str, launched: list[Any]) -> None:
    runs, losses = [], []
    for serial in (True, False):
        runs.append(run_of(family, name, precision, serial=serial))
        torch.manual_seed(7)
        losses.append(runs[-1].losses(EAGER_FIRST + REPLAYS))
        assert bool(launched) is not serial
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == len(losses[0])
    assert all(torch.equal(one, two) for one, two in zip(*map(kept, runs), strict=True))


@pytest.mark.slow
@PRECISIONS
@FAMILIES
def test_steps_with_compiled_blocks_are_those_of_one_stream(family: str, precision: str, launched: list[Any]) -> None:
    """Compiled code gives memory away as soon as an operator has returned."""
    runs, losses = [], []
    for serial in (True, False):
        runs.append(run_of(family, "dora", precision, serial=serial, fused=True))
        torch.manual_seed(7)
        losses.append(runs[-1].losses(EAGER_FIRST + REPLAYS))
        assert bool(launched) is not serial
    assert losses[0] == losses[1]
    assert all(torch.equal(one, two) for one, two in zip(*map(kept, runs), strict=True))


def wider(family: str) -> nn.Module:
    """Where activations are most of the memory."""
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=100, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048,
            hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


@PRECISIONS
def test_memory_is_little_more_than_that_of_one_stream(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One projection's activations at the peak."""
    for name, value in (("model_of", wider), ("ROWS", 32), ("LENGTH", 64)):
        monkeypatch.setattr(test_together, name, value)
    peaks, held = [], []
    for serial in (True, True, False):  # what a process makes once is made in the first
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        run = run_of("bert", "dora", precision, serial=serial)
        run.losses(EAGER_FIRST + REPLAYS)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        held.append(torch.cuda.max_memory_reserved() - reserved)
        del run
    assert peaks[2] <= 1.1 * peaks[1]
    assert held[2] <= 1.1 * held[1]


def test_an_error_amid_a_pass_is_the_one_that_is_raised(launched: list[Any]) -> None:
    """Not that branches were open when the capture ended; and what follows computes as ever."""
    run, graphs = run_of("bert", "lora", "fp32", serial=False), Graphs("a pass", "report it")

    def fail(gradient: torch.Tensor) -> None:
        if torch.cuda.is_current_stream_capturing():
            raise ValueError("planted")

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        (output[0] if isinstance(output, tuple) else output).register_hook(fail)

    run.model.bert.encoder.layer[0].register_forward_hook(hook)  # type: ignore[index, union-attr]

    def work(batch: Mapping[str, torch.Tensor]) -> None:
        run.step._forward_backward(batch)

    run.step.ledger.begin(1, ROWS)
    graphs.run("pass", work, run.batch)
    with pytest.raises(ValueError, match="planted"):
        graphs.run("pass", work, run.batch)
    assert launched
    torch._foreach_zero_(run.step._gradients())
    work(run.batch)
    assert all(float(gradient.norm()) > 0 for gradient in run.step._gradients())
