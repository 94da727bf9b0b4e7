"""What blocks hand each other in two types: that it is used, that it changes nothing, and when it is not to be used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.models.fused.both_types import BothTypes
from dora_cli.models.fused.fused_blocks import FusedBlocks
from tests.methods.small import new_lora, sites

pytestmark = pytest.mark.usefixtures("together")
HALF = torch.bfloat16
WIDTH = 8


class Block(nn.Module):
    """With a norm at its end, or at its beginning; it gives a tensor, or a tuple that begins with one."""

    def __init__(self, *, first: bool = False, tupled: bool = False, maps: int = 2) -> None:
        super().__init__()
        self.maps, self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(maps)), nn.Linear(WIDTH, WIDTH)
        self.norm, self.first, self.tupled = nn.LayerNorm(WIDTH), first, tupled

    def forward(self, hidden_states: torch.Tensor) -> Any:
        x = self.norm(hidden_states) if self.first else hidden_states
        y = hidden_states + self.out(torch.tanh(sum(one(x) for one in self.maps)))
        y = y if self.first else self.norm(y)
        return (y, None) if self.tupled else y


class Model(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(**settings) for _ in range(3))
        self.requires_grad_(False)
        self.method = new_lora(rank=2, dropout=0.0)
        found = sites({name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)})
        self.method.attach(self, found, [], self.method.plan(10, found))
        with torch.no_grad():
            for parameter in self.parameters_of_method():
                parameter.add_(0.3 * torch.randn_like(parameter))

    def parameters_of_method(self) -> list[nn.Parameter]:
        return [parameter for group in self.method.groups() for parameter in group.parameters]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            found = block(x)
            x = found[0] if isinstance(found, tuple) else found
        return x

    def run(self, *, fused: FusedBlocks | None, dtype: torch.dtype | None = HALF) -> list[torch.Tensor]:
        """What it gives, and the gradients of all parameters."""
        for parameter in self.parameters_of_method():
            parameter.grad = None
        x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", HALF, enabled=dtype is not None), self.method.training_pass():
            if fused is None:
                y = self(x)
                y.square().sum().backward()
            else:
                with fused.around(dtype):
                    y = self(x)
                    y.square().sum().backward()
        gradients = [parameter.grad for parameter in self.parameters_of_method()]
        return [y.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


class Watched:
    """Compiled blocks of a model, and what each was given beside its input: nothing, what the one before gave, or what
    was converted for it.
    """

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fused = FusedBlocks(model, model.method.sites, note=pytest.fail, backend="aot_eager")
        self.given: list[str] = []
        both = self.fused._both
        of, note = both.of, both.note
        handed: list[torch.Tensor | None] = [None]

        def watched_of(x: torch.Tensor | None, **more: bool) -> torch.Tensor | None:
            found = of(x, **more)
            self.given.append("nothing" if found is None else "handed" if found is handed[0] else "converted")
            return found

        def watched_note(result: Any, converted: torch.Tensor | None) -> None:
            handed[0] = converted
            note(result, converted)

        monkeypatch.setattr(both, "of", watched_of)
        monkeypatch.setattr(both, "note", watched_note)


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected) > 1
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("tupled", [False, True], ids=["tensor", "tuple"])
def test_blocks_hand_over_what_their_maps_read(tupled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And compute to the bit what they do without."""
    model = Model(tupled=tupled)
    watched = Watched(model, monkeypatch)
    expected = model.run(fused=None)
    for _ in range(2):
        watched.given.clear()
        assert_same(model.run(fused=watched.fused), expected)
        assert watched.given == ["converted", "handed", "handed"]
    monkeypatch.setattr(watched.fused._both, "begin", lambda dtype: None)
    assert_same(model.run(fused=watched.fused), expected)


def test_a_block_converts_neither_its_input_nor_adds_up_its_gradient() -> None:
    """That is within the code of the block before: in it the backward pass begins with both gradients."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(module: torch.fx.GraphModule, example: list[torch.Tensor]) -> Callable[..., Any]:
        from functorch.compile import make_boxed_func
        from torch._dynamo.backends.common import aot_autograd

        def keep(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        made: Callable[..., Any] = aot_autograd(fw_compiler=keep, bw_compiler=keep)(module, example)
        return made

    model = Model()
    model.run(fused=FusedBlocks(model, model.method.sites, note=pytest.fail, backend=backend))
    forward, backward = (
        [str(node.target) for node in graph.graph.nodes if node.op == "call_function"] for graph in graphs
    )
    assert forward[0] == "dora.projection.default"
    assert forward[-1] == "aten._to_copy.default"
    assert backward[-1] == "dora.projection_backward.default"
    assert backward[:2] == ["aten._to_copy.default", "aten.add.Tensor"]


def test_maps_that_read_a_norm_have_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(first=True)
    watched = Watched(model, monkeypatch)
    assert_same(model.run(fused=watched.fused), model.run(fused=None))
    assert watched.given == ["nothing"] * 3


def test_one_type_is_enough_without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    watched = Watched(model, monkeypatch)
    found = model.run(fused=watched.fused, dtype=None)
    torch.testing.assert_close(found, model.run(fused=None, dtype=None))
    assert watched.given == ["nothing"] * 3


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "another": lambda y: 2 * y,
    "in place": lambda y: y.mul_(2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_somebody_changes_between_blocks_is_converted_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    model.blocks[1].register_forward_hook(lambda module, args, y: CHANGES[name](y))
    expected = model.run(fused=None)
    watched = Watched(model, monkeypatch)
    assert_same(model.run(fused=watched.fused), expected)
    assert watched.given == ["converted", "handed", "converted"]


def _watch(kept: list[torch.Tensor], module: nn.Module, args: Any, y: torch.Tensor) -> None:
    if y.requires_grad:
        y.retain_grad()
        kept.append(y)


@pytest.mark.parametrize("watch", [False, True], ids=["a leaf", "watched"])
def test_whoever_wants_a_gradient_has_all_of_it(watch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a leaf which somebody gave the first block, and of an output that is looked at."""
    model = Model()
    watched = Watched(model, monkeypatch)
    found = []
    for fused in (None, watched.fused):
        x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
        kept: list[torch.Tensor] = []
        if watch:
            handle = model.blocks[0].register_forward_hook(partial(_watch, kept))
        around = nullcontext() if fused is None else fused.around(HALF)
        with torch.autocast("cpu", HALF), model.method.training_pass(), around:
            model(x).square().sum().backward()
        if watch:
            handle.remove()
        found.append([one.grad for one in (x, *kept)])
    assert len(found[0]) == 1 + watch
    assert_same([*found[0], torch.ones(1)], [*found[1], torch.ones(1)])
    assert watched.given == ["converted", "converted" if watch else "handed", "handed"]


@pytest.mark.parametrize("maps", [1, 2])
def test_maps_that_read_it_convert_nothing(maps: int) -> None:
    """Alone and together; nothing outlives the pass."""
    model, first = Model(maps=maps), list[str]()

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        names = [str(node.target) for node in graph.graph.nodes if node.op in ("call_function", "call_method")]
        first.append(next(name for name in names if name == "to" or name.startswith("dora")))
        found: Callable[..., Any] = graph.forward
        return found

    fused = FusedBlocks(model, model.method.sites, note=pytest.fail, backend=backend)
    model.run(fused=fused)
    assert first == ["dora.projection.default"]
    assert fused._both._last is fused._both.dtype is None


# -- who is given what -------------------------------------------------------------------------------------------------


@pytest.fixture
def both() -> BothTypes:
    found = BothTypes()
    found.begin(HALF)
    return found


def test_a_gradient_must_be_wanted_of_both_or_none(both: BothTypes) -> None:
    """Else it would be lost: a block whose pass is not recorded is handed over without one."""
    x = torch.ones(2).requires_grad_()
    both.note(x, x.detach().to(HALF))
    found = both.of(x)
    assert found is not None
    assert found.requires_grad


def test_it_is_given_once(both: BothTypes) -> None:
    x = torch.ones(2)
    converted = x.to(HALF)
    both.note((x, None), converted)
    assert both.of(x) is converted
    assert both.of(x) is not converted


def test_a_gradient_that_nobody_reads_is_not_added_to_another(both: BothTypes) -> None:
    """That of the first block's input, which requires one to look like the others."""
    given = torch.ones(2)
    converted = given.to(HALF)
    for known in (False, True):
        if known:
            both.note(given, converted)
        found = both.of(given, unread=True)
        assert found is not None
        assert found.is_leaf
        assert found.requires_grad
        assert (found.data_ptr() == converted.data_ptr()) is known
    y = 2 * given.requires_grad_()
    made = both.of(y)
    assert made is not None
    assert made.grad_fn is not None


@pytest.mark.parametrize("x", [None, torch.ones(2, dtype=HALF), torch.ones(2, dtype=torch.int64)], ids=str)
def test_nothing_for_what_has_no_second_type(x: torch.Tensor | None, both: BothTypes) -> None:
    assert both.of(x) is None


def test_nothing_outlives_a_pass(both: BothTypes) -> None:
    x = torch.ones(2)
    both.note(x, x.to(HALF))
    both.entry.x = both.entry.converted = x
    both.end()
    assert both.of(x) is None
    both.begin(HALF)
    assert both.of(x) is not None
    assert both.entry.x is both.entry.converted is None


def test_what_gives_no_tensor_hands_nothing_over(both: BothTypes) -> None:
    run = both.around(lambda block, hidden_states: "no tensor")
    assert run(nn.Identity(), torch.ones(2).to(HALF), hidden_states=torch.ones(2)) == ("no tensor", None)
    both.note("no tensor", None)
    same = both.around(lambda block, x: x.to(HALF))
    assert same(nn.Identity(), torch.ones(2).to(HALF), torch.ones(2))[1] is None  # of one type already
    assert partial(both.around(lambda block, x: x), nn.Identity())(None, torch.ones(2))[1] is None
