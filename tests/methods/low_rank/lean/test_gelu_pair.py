"""Two projections with a GELU between them, against the same modules one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.lean import seam_pair
from dora_cli.methods.low_rank.lean.seam import Joint, Seam
from dora_cli.methods.low_rank.lean.seam_pair import SeamPair, can_be_pair
from tests.methods.low_rank.test_variants import drawn
from tests.methods.small import new_lora, sites

D_IN, D_MID = 6, 10


class FeedForward(nn.Module):
    """What a block does between its norms; some of `names` have adapters, the others are frozen."""

    def __init__(self, names: tuple[str, ...] = ("up", "down"), *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up: nn.Module = nn.Linear(D_IN, D_MID)
        self.gelu, self.down = nn.GELU(), cast("nn.Module", nn.Linear(D_MID, D_IN, bias=False))
        self.double().requires_grad_(False)
        if not names:
            return
        self.method = new_lora(rank=2, dropout=dropout)
        found = sites({name: getattr(self, name) for name in names})
        self.method.attach(self, found, [], self.method.plan(100, found))
        with torch.no_grad():
            for group in self.method.groups():
                for parameter in group.parameters:
                    parameter.copy_(torch.randn_like(parameter))
        self.train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(self.gelu(self.up(x)))
        return y

    @contextmanager
    def within(self, *, paired: bool) -> Iterator[None]:
        """A pass in which both maps are seams, and a pair where that is asked for."""
        with self.method.training_pass(), self.as_seams(paired=paired):
            yield

    @contextmanager
    def as_seams(self, *, paired: bool) -> Iterator[None]:
        plain = self.up, self.down
        self.seams = up, down = Seam(plain[0]), Seam(plain[1])
        self.up, self.down = self.seams
        for seam in self.seams:
            seam.begin(None)
        self.pair = SeamPair(up, self.gelu, down)
        if paired:
            assert can_be_pair(up, self.gelu, down)
            self.pair.begin()
        yield
        for made in (self.pair, *self.seams):
            made.end()
        self.up, self.down = plain

    def run(self, *, paired: bool, compute: Callable[[torch.Tensor], torch.Tensor] | None = None) -> list[torch.Tensor]:
        """Output, gradient of the input, and gradients of the factors, of one pass."""
        torch.manual_seed(7)
        x = torch.randn(2, 3, D_IN, dtype=torch.float64).requires_grad_()
        parameters = [parameter for group in self.method.groups() for parameter in group.parameters]
        for parameter in parameters:
            parameter.grad = None
        with self.within(paired=paired):
            y = (compute or self)(x)
            y.square().sum().backward()
        assert x.grad is not None
        return [y.detach(), x.grad, *(p.grad for p in parameters if p.grad is not None)]


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of a pair's are called."""
    called: list[str] = []
    for name in ("projection_gelu", "gelu_projection", "gelu_projection_backward"):
        plain = getattr(seam_pair, name)
        monkeypatch.setattr(seam_pair, name, lambda *args, plain=plain, name=name: called.append(name) or plain(*args))
    return called


ALL = ["projection_gelu", "gelu_projection", "gelu_projection_backward"]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("names", [("up", "down"), ("up",), ("down",)], ids=" and ".join)
def test_a_pair_computes_what_its_modules_do(names: tuple[str, ...], dropout: float, operators: list[str]) -> None:
    model = FeedForward(names, dropout=dropout)
    expected = model.run(paired=False)
    assert not operators
    found = model.run(paired=True)
    assert operators == ALL
    assert len(found) == len(expected) == 2 + 2 * len(names)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ranks", [(0, 2), (2, 0)], ids=str)
def test_also_where_one_has_no_component(ranks: tuple[int, int], operators: list[str]) -> None:
    """An event may have left it none."""

    def run(*, paired: bool) -> list[torch.Tensor]:
        model = FeedForward(())
        for name, rank, seed in zip(("up", "down"), ranks, (1, 2), strict=True):
            base = getattr(model, name)
            A, B = drawn(seed, rank, base.in_features), drawn(seed + 2, base.out_features, rank)
            setattr(model, name, AdaptedProjection(base, A, B, scaling=0.7, dropout=0.0))
        adapters = Adapters(model, {"up": model.up, "down": model.down})
        x = drawn(7, 2, 3, D_IN).requires_grad_()
        with adapters.training_pass(), model.as_seams(paired=paired):
            assert [seam.adapted is not None for seam in model.seams] == [True, True]
            y = model(x)
            y.square().sum().backward()
        gradients = (p.grad for p in adapters.parameters() if p.grad is not None)
        return [y.detach(), *(gradient for gradient in (x.grad, *gradients) if gradient is not None)]

    expected = run(paired=False)
    assert sum(float(tensor.norm()) > 0 for tensor in expected) == 4
    torch.testing.assert_close(run(paired=True), expected, rtol=1e-12, atol=1e-12)
    assert operators == ALL


def test_others_may_read_what_is_between() -> None:
    """What goes in and what comes out, before the second map or after it."""
    model = FeedForward()

    def compute(x: torch.Tensor) -> torch.Tensor:
        y = model.up(x)
        activated = model.gelu(y)
        return model.down(activated) + y[..., :D_IN].sin() * activated[..., :D_IN].cos()

    torch.testing.assert_close(
        model.run(paired=True, compute=compute), model.run(paired=False, compute=compute), rtol=1e-12, atol=1e-12
    )


@torch.no_grad()
def _without_gradients(function: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = function(x)
    return y


BETWEEN: dict[str, Callable[[torch.Tensor, nn.Module], torch.Tensor]] = {
    "copied": lambda y, gelu: gelu(y.clone()),
    "another before": lambda y, gelu: gelu(y + 1),
    "changed after": lambda y, gelu: gelu(y).mul(2),
    "changed in place": lambda y, gelu: gelu(y).mul_(2),
    "called twice": lambda y, gelu: gelu(y) + gelu(2 * y),
    "asked twice, changed between": lambda y, gelu: (gelu(y).mul_(2), gelu(y))[1],
    "without gradients": lambda y, gelu: _without_gradients(gelu, y) + y,
    "left out": lambda y, gelu: y,
}


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_what_is_another_tensor_is_computed_alone(backend: str | None) -> None:
    """In traced code too, which knows no versions; there an evaluation has seen whether it is changed in place."""
    model = FeedForward()
    for name, between in BETWEEN.items():
        if (backend, name) == ("aot_eager", "changed in place"):
            continue

        def compute(x: torch.Tensor, between: Callable[..., torch.Tensor] = between) -> torch.Tensor:
            y: torch.Tensor = model.down(between(model.up(x), model.gelu))
            return y

        traced = compute if backend is None else torch.compile(compute, backend=backend)
        found, expected = model.run(paired=True, compute=traced), model.run(paired=False, compute=compute)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=name)
        torch._dynamo.reset()


def test_nothing_is_kept_of_what_nobody_has_read() -> None:
    model = FeedForward()
    x = torch.randn(3, D_IN, dtype=torch.float64, requires_grad=True)
    with model.within(paired=True):
        y = model.up(x)
        assert model.pair._pair._y is y
        model.down(torch.cat([model.gelu(y)]))
        assert (model.pair._pair._y, model.pair._pair._activated) == (None, None)
        model.up(x)
    assert (model.pair._pair._y, model.pair._pair._activated) == (None, None)


def test_an_answer_in_another_type_is_computed_alone(operators: list[str]) -> None:
    """Outside of autocast a seam answers in the type of its input."""
    model = FeedForward(("up",))
    with model.within(paired=True):
        found = model.down(model.gelu(model.up(torch.randn(3, D_IN, requires_grad=True))))
    assert found.dtype == torch.float32
    assert not operators


def test_a_pair_may_be_called_twice_in_a_pass(operators: list[str]) -> None:
    model = FeedForward(dropout=0.4)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return model(torch.tanh(model(x)))

    found = model.run(paired=True, compute=twice)
    assert operators == [*ALL[:2] * 2, *ALL[2:] * 2]
    torch.testing.assert_close(found, model.run(paired=False, compute=twice), rtol=1e-12, atol=1e-12)


def test_a_pass_without_gradients_keeps_nothing() -> None:
    model = FeedForward()
    x = torch.randn(3, D_IN, dtype=torch.float64)
    with model.within(paired=True), torch.no_grad():
        found = model(x)
    torch.testing.assert_close(found, model(x), rtol=1e-12, atol=1e-12)


def test_the_module_is_as_before_after_a_pass() -> None:
    """Unless somebody else has changed it meanwhile."""
    model = FeedForward()
    with model.within(paired=True):
        assert "forward" in vars(model.gelu)
    assert "forward" not in vars(model.gelu)
    with model.within(paired=True):
        model.gelu.forward = F.relu
    assert model.gelu.forward is F.relu
    with model.within(paired=False):
        assert not can_be_pair(Seam(nn.Linear(2, 2)), model.gelu, Seam(nn.Linear(2, 2)))


def test_seams_that_others_compute_are_no_pair() -> None:
    seams = [Seam(nn.Linear(4, 4).requires_grad_(False)) for _ in range(3)]
    gelu = nn.GELU()
    for seam in seams:
        seam.begin(None)
    assert can_be_pair(seams[0], gelu, seams[2])
    seams[2].begin(torch.bfloat16)
    assert not can_be_pair(seams[0], gelu, seams[2])
    joint = Joint(seams[:2])
    joint.begin()
    seams[2].begin(None)
    assert not can_be_pair(seams[0], gelu, seams[2])


def test_backward_after_the_end_of_its_pass_is_refused() -> None:
    model = FeedForward()
    x = torch.randn(3, D_IN, dtype=torch.float64, requires_grad=True)
    with model.within(paired=True):
        loss = model(x).sum()
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()
