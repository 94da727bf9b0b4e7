"""Two projections with a GELU between them in a pass without compiled blocks, against the same modules one after the
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn import functional as F

from dora_cli.methods.low_rank.lean import lean_pair
from dora_cli.methods.low_rank.lean import lean_pass as lean_module
from dora_cli.methods.low_rank.same_input.readers import NOBODY, AcrossGelu, Readers
from tests.methods.low_rank.lean.test_gelu_pair import BETWEEN, D_IN, FeedForward
from tests.methods.low_rank.same_input.plain_many import TogetherKernels

ACROSS = Readers([["up"], ["down"]], [AcrossGelu("up", "gelu", "down")])
ALL = ["_WithGelu", "_OfGelu", "_OfGelu backward", "_WithGelu backward"]


class InPass(FeedForward):
    """Whose pass knows that there is a GELU between both maps, where that is asked for."""

    @contextmanager
    def within(self, *, paired: bool) -> Iterator[None]:
        passes = self.method._adapters._passes
        passes.forget()
        passes.readers = ACROSS if paired else NOBODY
        with self.method.training_pass():
            yield


@pytest.fixture(autouse=True)
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain operations in the place of a GPU's kernels, with which passes compute pairs."""
    monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TogetherKernels(device))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which functions of a pair are."""
    found: list[str] = []

    def note(name: str, plain: Callable[..., object]) -> Callable[..., object]:
        return lambda *args: found.append(name) or plain(*args)

    for function in (lean_pair._WithGelu, lean_pair._OfGelu):
        name = function.__name__
        monkeypatch.setattr(function, "apply", note(name, function.apply))
        monkeypatch.setattr(function, "backward", staticmethod(note(f"{name} backward", function.backward)))
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_pair_computes_what_its_modules_do(dropout: float, called: list[str]) -> None:
    model = InPass(dropout=dropout)
    expected = model.run(paired=False)
    assert not called
    found = model.run(paired=True)
    assert called == ALL
    assert len(found) == len(expected) == 6
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("names", [("up",), ("down",)])
def test_a_map_without_an_adapter_is_in_no_pair(names: tuple[str, ...], called: list[str]) -> None:
    model = InPass(names)
    torch.testing.assert_close(model.run(paired=True), model.run(paired=False), rtol=1e-12, atol=1e-12)
    assert not called


@pytest.mark.parametrize("name", BETWEEN)
def test_what_is_another_tensor_is_computed_alone(name: str, called: list[str]) -> None:
    model = InPass()

    def compute(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = model.down(BETWEEN[name](model.up(x), model.gelu))
        return y

    found = model.run(paired=True, compute=compute)
    assert called == ["_WithGelu", "_WithGelu backward"]
    torch.testing.assert_close(found, model.run(paired=False, compute=compute), rtol=1e-12, atol=1e-12)


def test_others_may_read_what_is_between(called: list[str]) -> None:
    model = InPass()

    def compute(x: torch.Tensor) -> torch.Tensor:
        y = model.up(x)
        activated = model.gelu(y)
        return model.down(activated) + y[..., :D_IN].sin() * activated[..., :D_IN].cos()

    found = model.run(paired=True, compute=compute)
    assert called == ALL
    torch.testing.assert_close(found, model.run(paired=False, compute=compute), rtol=1e-12, atol=1e-12)


def test_a_pair_may_be_called_twice_in_a_pass(called: list[str]) -> None:
    model = InPass(dropout=0.4)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return model(torch.tanh(model(x)))

    found = model.run(paired=True, compute=twice)
    assert called == [*ALL[:2] * 2, *ALL[2:] * 2]
    torch.testing.assert_close(found, model.run(paired=False, compute=twice), rtol=1e-12, atol=1e-12)


def test_a_pass_without_gradients(called: list[str]) -> None:
    model = InPass()
    x = torch.randn(3, D_IN, dtype=torch.float64)
    with model.within(paired=True), torch.no_grad():
        found = model(x)
    assert called == ALL[:2]
    torch.testing.assert_close(found, model(x), rtol=1e-12, atol=1e-12)


def test_the_module_is_as_before_after_a_pass() -> None:
    """Unless somebody else has changed it meanwhile."""
    model = InPass()
    with model.within(paired=True):
        assert "forward" in vars(model.gelu)
    assert "forward" not in vars(model.gelu)
    with pytest.raises(ValueError, match="amid it"), model.within(paired=True):
        raise ValueError("amid it")
    assert "forward" not in vars(model.gelu)
    with model.within(paired=True):
        model.gelu.forward = F.relu
    assert model.gelu.forward is F.relu


def test_a_pair_of_seams_takes_the_place_of_that_of_their_projections(called: list[str]) -> None:
    model = InPass()
    expected = model.run(paired=True)
    called.clear()

    def as_seams(given: torch.Tensor) -> torch.Tensor:
        before = model.gelu.forward
        with model.as_seams(paired=True):
            assert model.gelu.forward != before
            y: torch.Tensor = model(given)
            (gradient,) = torch.autograd.grad(y.square().sum(), given)
        assert model.gelu.forward == before
        found.append(gradient)
        return y.detach() + 0 * given

    found: list[torch.Tensor] = []
    output = model.run(paired=True, compute=as_seams)[0]
    assert not called
    torch.testing.assert_close([output, *found], expected[:2], rtol=1e-12, atol=1e-12)


def test_a_module_with_a_forward_of_the_users_is_in_no_pair(called: list[str]) -> None:
    model = InPass()
    model.gelu.forward = F.gelu
    torch.testing.assert_close(model.run(paired=True), model.run(paired=False), rtol=1e-12, atol=1e-12)
    assert not called


def test_an_answer_in_another_type_is_computed_alone(called: list[str]) -> None:
    """Outside of autocast a layer answers in the type of its input."""
    model = InPass()
    x = torch.randn(3, D_IN)
    with model.within(paired=True):
        assert model(x).dtype == torch.float32
        assert not called
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
    assert called == ALL[:2]


def test_who_watches_the_gelu_has_its_gradient(called: list[str]) -> None:
    """Then the second map computes alone."""
    model = InPass()
    seen: list[torch.Tensor] = []

    def compute(x: torch.Tensor) -> torch.Tensor:
        activated = model.gelu(model.up(x))
        activated.retain_grad()
        y: torch.Tensor = model.down(activated)
        y.square().sum().backward(inputs=[activated], retain_graph=True)
        assert activated.grad is not None
        seen.append(activated.grad)
        return y

    found = model.run(paired=True, compute=compute)
    assert called[:1] == ["_WithGelu"]
    assert "_OfGelu" not in called
    torch.testing.assert_close(found, model.run(paired=False, compute=compute), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*seen, rtol=1e-12, atol=1e-12)


def test_backward_after_the_end_of_its_pass_is_refused() -> None:
    model = InPass()
    x = torch.randn(3, D_IN, dtype=torch.float64, requires_grad=True)
    with model.within(paired=True):
        loss = model(x).sum()
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()
