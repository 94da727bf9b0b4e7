"""Compiled blocks: what a pass changes of a model, and what it leaves."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from dora_cli.methods.low_rank.lean.seam import Seam
from dora_cli.models.fused.fused_blocks import FusedBlocks
from tests.methods.small import Block, new_lora, sites


class Model(nn.Module):
    """Two blocks and a projection of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block(4, 6) for _ in range(2))
        self.head = nn.Linear(4, 2)
        self.requires_grad_(False)
        self.method = new_lora(rank=2, dropout=0.0)
        found = sites({name: module for name, module in self.named_modules() if name.endswith(("att", "up"))})
        self.method.attach(self, found, [], self.method.plan(10, found))

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_a_pass_leaves_the_model_as_it_was() -> None:
    model, notes = Model(), list[str]()
    names, modules = list(model.state_dict()), dict(model.named_modules())
    fused = FusedBlocks(model, model.method.sites, note=notes.append, backend=_fails)
    seams = list[str]()
    model.head.register_forward_pre_hook(
        lambda *_: seams.extend(name for name, module in model.named_modules() if isinstance(module, Seam))
    )
    with model.method.training_pass(), fused.around(None):
        model(torch.randn(3, 4))
    with pytest.raises(RuntimeError), model.method.training_pass(), fused.around(None):
        model(torch.randn(3, 5))  # of a width that no layer takes
    assert seams == ["layers.0.att", "layers.0.up", "layers.1.att", "layers.1.up"]
    assert list(model.state_dict()) == names
    assert dict(model.named_modules()) == modules
    assert not any("forward" in vars(layer) for layer in model.layers)


def test_what_somebody_has_replaced_stays_theirs() -> None:
    model = Model()
    mine = vars(model.layers[0])["forward"] = lambda x: x
    fused = FusedBlocks(model, model.method.sites, note=pytest.fail, backend="eager")
    seen = list[bool]()

    def look(*_: object) -> None:
        seen.extend([vars(model.layers[0])["forward"] is mine, "forward" in vars(model.layers[1])])

    model.head.register_forward_pre_hook(look)
    with model.method.training_pass(), fused.around(None):
        model(torch.randn(3, 4))
    assert seen == [True, True]
    assert vars(model.layers[0])["forward"] is mine


def test_what_the_compiler_cannot_do_is_said_once() -> None:
    """The pass goes on as it stands, those after it too, and learn what they learn without."""
    model, plain, notes = Model(), Model(), list[str]()
    fused = FusedBlocks(model, model.method.sites, note=notes.append, backend=_fails)
    x = torch.randn(3, 4)
    for _ in range(2):
        with model.method.training_pass(), fused.around(None):
            found = model(x)
            found.square().sum().backward()
        with plain.method.training_pass():
            expected = plain(x)
            expected.square().sum().backward()
        torch.testing.assert_close(found, expected)
    (note,) = notes
    assert note.startswith("blocks")
    assert note.endswith("no such kernel")
    assert fused.failure == "no such kernel"
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None and two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad)


def _fails(*_: object) -> NoReturn:
    raise NotImplementedError("\nno such kernel:\n  in line 3")


def test_memory_that_runs_out_is_nobodys_failure() -> None:
    model = Model()
    fused = FusedBlocks(model, model.method.sites, note=pytest.fail, backend=lambda *_: _runs_out)
    with pytest.raises(torch.OutOfMemoryError), model.method.training_pass(), fused.around(None):
        model(torch.randn(3, 4))
    assert fused.failure is None


def _runs_out(*_: object) -> NoReturn:
    raise torch.OutOfMemoryError


def test_an_error_of_the_model_itself_is_raised() -> None:
    model, notes = Model(), list[str]()
    fused = FusedBlocks(model, model.method.sites, note=notes.append, backend=_fails)
    with pytest.raises(RuntimeError), model.method.training_pass(), fused.around(None):
        model(torch.randn(3, 5))
    assert len(notes) == 1


def test_nothing_is_compiled_within_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled already is used there; what would have to be compiled first runs as it stands."""
    model, compiled, ran = Model(), list[int](), list[int]()

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        compiled.append(1)

        def run(*inputs: torch.Tensor) -> Any:
            ran.append(1)
            return graph.forward(*inputs)

        return run

    fused = FusedBlocks(model, model.method.sites, note=pytest.fail, backend=backend)

    def one_pass(x: torch.Tensor) -> torch.Tensor:
        with model.method.training_pass(), fused.around(None):
            y = model(x)
            y.square().sum().backward()
        return y.detach()

    torch._dynamo.reset()
    x = torch.randn(3, 4)
    expected, wider = one_pass(x), model(torch.randn(1, 2, 3, 4))
    assert (len(compiled), len(ran)) == (1, 2)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(fused, "_device", torch.device("cuda"))
    torch.testing.assert_close(one_pass(x), expected)
    assert (len(compiled), len(ran)) == (1, 4)
    assert one_pass(torch.randn(1, 2, 3, 4)).shape == wider.shape
    assert (len(compiled), len(ran)) == (1, 4)
