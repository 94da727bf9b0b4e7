"""A projection as one operator against the layer that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import nn

from dora_cli.methods.base import Method
from dora_cli.methods.low_rank.lean import lean_pass as lean_module
from dora_cli.methods.low_rank.lean.seam import Joint, Seam, can_be_seam, projection
from dora_cli.methods.low_rank.same_input.readers import Readers
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.methods.small import new_dora, new_lora, sites

D_IN, D_OUT = 6, 10


class Pair:
    """A layer in training, its seam, and two equal inputs."""

    def __init__(self, method: Method, *, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"map": nn.Linear(D_IN, D_OUT, dtype=dtype).requires_grad_(False)})
        self.method = method
        found = sites(dict(self.model))
        method.attach(self.model, found, [], method.plan(100, found))
        self.layer = self.model["map"]
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(torch.randn_like(parameter))
        self.seam = Seam(self.layer)
        self.x = torch.randn(2, 3, D_IN, dtype=dtype)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.method.groups() for parameter in group.parameters]

    def run(
        self,
        compute: Callable[[torch.Tensor], torch.Tensor],
        *,
        requires_grad: bool = True,
        around: AbstractContextManager[None] | None = None,
    ) -> list[torch.Tensor]:
        """Output, gradient of the input where it has one, and gradients of the factors, of one pass."""
        torch.manual_seed(7)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
        x = self.x.clone().requires_grad_(requires_grad)
        with around or self.method.training_pass():
            self.seam.begin(None)
            y = compute(x)
            y.square().sum().backward()
            self.seam.end()
        own = [] if x.grad is None else [x.grad]
        return [
            y.detach(),
            *own,
            *(parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None),
        ]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("new", [new_lora, new_dora])
def test_it_computes_what_the_layer_does(new: Callable[..., Method], dropout: float) -> None:
    pair = Pair(new(rank=2, dropout=dropout))
    expected = pair.run(pair.layer)
    found = pair.run(pair.seam)
    assert len(found) >= 4
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_factors_get_their_gradients_where_the_input_has_none() -> None:
    pair = Pair(new_lora(rank=2, dropout=0.0))
    expected = pair.run(pair.layer, requires_grad=False)
    torch.testing.assert_close(pair.run(pair.seam, requires_grad=False), expected)
    assert len(expected) == 3
    assert float(expected[1].norm()) > 0


def test_a_seam_may_be_called_twice_in_a_pass() -> None:
    """Some models run one block several times; dropout is another each time."""
    pair = Pair(new_lora(rank=2, dropout=0.4))

    def twice(compute: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: compute(torch.tanh(compute(x))[..., :D_IN])

    torch.testing.assert_close(pair.run(twice(pair.seam)), pair.run(twice(pair.layer)), rtol=1e-12, atol=1e-12)


def test_a_frozen_map_is_followed_where_it_changes() -> None:
    base = nn.Linear(D_IN, D_OUT).requires_grad_(False)
    seam = Seam(base)
    for _ in range(2):
        seam.begin(None)
        x = torch.randn(4, D_IN, requires_grad=True)
        seam(x).sum().backward()
        torch.testing.assert_close(seam(x), base(x))
        torch.testing.assert_close(x.grad, base.weight.sum(0).expand(4, D_IN))
        base.weight.mul_(2.0)
        assert base.bias is not None
        base.bias.add_(1.0)


def test_under_autocast_it_answers_in_its_type() -> None:
    base = nn.Linear(D_IN, D_OUT).requires_grad_(False)
    seam = Seam(base)
    seam.begin(torch.bfloat16)
    x = torch.randn(4, D_IN, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = seam(x), base(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_backward_after_the_end_of_its_pass_is_refused() -> None:
    pair = Pair(new_lora(rank=2, dropout=0.0))
    x = pair.x.requires_grad_()
    with pair.method.training_pass():
        pair.seam.begin(None)
        loss = pair.seam(x).sum()
    pair.seam.end()
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()


class Three:
    """Three layers in training and a frozen map beside each other, and the seams of all four, joined or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, dropout: float = 0.3) -> None:
        monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TogetherKernels(device))
        torch.manual_seed(0)
        self.model = nn.ModuleDict(
            {name: nn.Linear(D_IN, d, dtype=torch.float64).requires_grad_(False) for name, d in WIDTHS.items()}
        )
        self.method = new_lora(rank=2, dropout=dropout)
        found = sites({name: self.model[name] for name in ("query", "key", "value")})
        self.method.attach(self.model, found, [], self.method.plan(100, found))
        self.seams = [Seam(module) for module in self.model.values()]
        with torch.no_grad():
            for group in self.method.groups():
                for parameter in group.parameters:
                    parameter.copy_(torch.randn_like(parameter))
        self.model.train()

    @contextmanager
    def within(self, joined: Sequence[int]) -> Iterator[None]:
        """A pass in which those of `joined` are."""
        with self.method.training_pass():
            if joined:
                lean = self.method._adapters._passes._lean
                paths = dict(enumerate(WIDTHS))
                lean.put_together(Readers([[paths[place] for place in joined]]), {i: paths[i] for i in range(3)})
            for seam in self.seams:
                seam.begin(None)
            joint = Joint([self.seams[place] for place in joined]) if joined else None
            if joint is not None:
                joint.begin()
            yield
            for made in (*self.seams, *([] if joint is None else [joint])):
                made.end()

    def run(self, joined: Sequence[int], *, other: int | None = None) -> list[torch.Tensor]:
        """Outputs, the gradient of the input and those of the factors, of one pass; `other` reads another input."""
        torch.manual_seed(7)
        x = torch.randn(2, 3, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        parameters = [parameter for group in self.method.groups() for parameter in group.parameters]
        for parameter in parameters:
            parameter.grad = None
        with self.within(joined):
            outputs = [seam(x.clone() if place == other else x) for place, seam in enumerate(self.seams)]
            torch.stack([y.square().sum() for y in outputs]).sum().backward()
        assert x.grad is not None
        return [*(y.detach() for y in outputs), x.grad, *(p.grad.clone() for p in parameters if p.grad is not None)]


WIDTHS = {"query": 10, "key": 4, "value": 4, "gate": 10}


@pytest.mark.parametrize("joined", [(0, 1, 2), (1, 2), (0, 1, 3), (3, 0)], ids=["all", "two", "frozen", "frozen first"])
@pytest.mark.parametrize("other", [None, 2])
def test_joined_seams_compute_what_each_does(
    joined: tuple[int, ...], other: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where not all of them can be computed as one, and where one is called with another input."""
    three = Three(monkeypatch, dropout=0.3 if other is None else 0.0)  # which is drawn anew for what is computed alone
    expected = three.run(())
    found = three.run(joined, other=other)
    assert len(found) == len(expected) == 4 + 1 + 6
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_input_that_was_changed_in_place_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no compiler traces: the readers that come after the change read what it has become."""
    three = Three(monkeypatch, dropout=0.0)
    x = torch.randn(2, 3, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def outputs(*, joined: bool) -> list[torch.Tensor]:
        with three.within(joined=(0, 1, 2) if joined else ()), torch.no_grad():
            h = x * 1.0
            h.requires_grad_()
            query = three.seams[0](h)
            h.add_(1.0)
            return [query, *(seam(h) for seam in three.seams[1:3])]

    torch.testing.assert_close(outputs(joined=True), outputs(joined=False), rtol=1e-12, atol=1e-12)


def test_a_seam_that_follows_one_without_gradients_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    three = Three(monkeypatch, dropout=0.0)
    x = torch.randn(2, 3, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def gradient(*, joined: bool) -> torch.Tensor:
        with three.within(joined=(0, 1, 2) if joined else ()):
            with torch.no_grad():
                three.seams[0](x)
            three.seams[1](x).square().sum().backward()
        assert x.grad is not None
        found, x.grad = x.grad, None
        return found

    torch.testing.assert_close(gradient(joined=True), gradient(joined=False), rtol=1e-12, atol=1e-12)


def test_joined_seams_are_one_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    three, calls = Three(monkeypatch), list[type]()
    plain = Joint.map, Seam.map
    for kind, map_ in zip((Joint, Seam), plain, strict=True):
        monkeypatch.setattr(kind, "map", lambda self, x, map_=map_: calls.append(type(self)) or map_(self, x))
    three.run((0, 1, 2))
    assert calls == [Joint, Seam]
    assert three.method._adapters._passes._lean._together


def test_backward_of_joined_seams_after_the_end_of_their_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    three = Three(monkeypatch)
    x = torch.randn(3, D_IN, dtype=torch.float64, requires_grad=True)
    with three.method.training_pass():
        for seam in three.seams:
            seam.begin(None)
        joint = Joint(three.seams[:3])
        joint.begin()
        loss = three.seams[0](x).sum()
    joint.end()
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()


def test_what_trains_by_itself_is_none() -> None:
    pair = Pair(new_lora(rank=2, dropout=0.0))
    assert not can_be_seam(pair.layer), "no pass has begun"
    with pair.method.training_pass():
        assert can_be_seam(pair.layer)
    assert not can_be_seam(nn.Linear(2, 2))
    assert can_be_seam(nn.Linear(2, 2).requires_grad_(False))
    assert not can_be_seam(nn.LayerNorm(2).requires_grad_(False))


def test_the_operator_says_what_it_gives() -> None:
    """PyTorch's own checks: it changes no argument, and its shapes are foretold."""
    seam = Seam(nn.Linear(D_IN, D_OUT).requires_grad_(False))
    seam.begin(None)
    x = torch.randn(2, 3, D_IN, requires_grad=True)
    found = torch.library.opcheck(
        projection, (x, seam.number, D_OUT), test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )
    assert set(found.values()) == {"SUCCESS"}
