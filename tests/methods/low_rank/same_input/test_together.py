"""Projections that read the same input, computed as one, against each computed alone."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from dora_cli.methods import Dora
from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.lean import lean_pass as lean_module
from dora_cli.methods.low_rank.lean.lean_pass import LeanPass
from dora_cli.methods.low_rank.lean.passes import Passes
from dora_cli.methods.low_rank.same_input.products import Wide
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.methods.low_rank.same_input.test_readers import tiny_llama
from tests.methods.small import linear_maps, new_dora, sites, tiny_roberta

IDS = torch.randint(3, 40, (6, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TogetherKernels(device))


class Three(nn.Module):
    """Query, key and value of one input, keys and values narrower, keys without a bias; `change` is made of what they
    give.
    """

    def __init__(
        self, *, bias: bool = True, width: int = 10, change: Callable[[torch.Tensor], torch.Tensor] = torch.tanh
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(12, width, bias=bias)
        self.key, self.value = nn.Linear(12, 6, bias=False), nn.Linear(12, 6, bias=bias)
        self.change = change
        self.double()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.change(self.query(x)), self.change(self.key(x)), self.change(self.value(x))


def adapted(model: Three, ranks: tuple[int, int, int] = (3, 2, 2), **settings: Any) -> tuple[Passes, list[Components]]:
    """With random factors; two groups, of two shapes."""
    layers = {}
    for name, rank in zip(("query", "key", "value"), ranks, strict=True):
        base = getattr(model, name).requires_grad_(False)
        A, B = torch.randn(rank, 12, dtype=torch.float64), torch.randn(base.out_features, rank, dtype=torch.float64)
        layers[name] = AdaptedProjection(base, A, B, scaling=0.7, **({"dropout": 0.0} | settings))
        setattr(model, name, layers[name])
    groups = [Components([layers["query"]]), Components([layers["key"], layers["value"]])]
    return Passes(model.train()), groups


def gradients(model: nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    for parameter in model.parameters():
        parameter.grad = None
    assert all(gradient is not None for gradient in found)
    return found  # type: ignore[return-value]


def pass_of(passes: Passes) -> LeanPass:
    assert passes._lean is not None
    return passes._lean


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TorchKernels(device))


@pytest.mark.parametrize("used", [(0, 1, 2), (0,), (2,)])
@pytest.mark.parametrize("ranks", [(3, 2, 2), (0, 2, 0), (2, 0, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_autograd(
    bias: bool, ranks: tuple[int, int, int], used: tuple[int, ...]
) -> None:
    """In float64 to rounding; of outputs that nobody reads too, which have no gradient."""
    model = Three(bias=bias)
    passes, groups = adapted(model, ranks)
    x = torch.randn(4, 5, 12, dtype=torch.float64, requires_grad=True)

    def run() -> tuple[list[torch.Tensor], torch.Tensor | None]:
        outputs = model(x)
        sum(outputs[index].square().sum() for index in used).backward()
        gradient, x.grad = x.grad, None
        return [y.detach() for y in outputs], gradient

    expected, wanted = run()
    plainly = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    with passes.around(groups, None):
        found, gradient = run()
    assert [len(together.members) for together in pass_of(passes)._together] == [3]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)
    for parameter, plain in zip(model.parameters(), plainly, strict=True):
        if parameter.requires_grad:
            grad = torch.zeros_like(parameter) if plain is None else plain
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", [("A",), ("B",), ("A", "B")])
def test_factors_that_stay(frozen: tuple[str, ...]) -> None:
    model = Three()
    passes, groups = adapted(model, frozen=frozen)
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    for around in (False, True):
        if around:
            with passes.around(groups, None):
                sum(y.square().sum() for y in model(x)).backward()
            assert pass_of(passes)._together
        else:
            sum(y.square().sum() for y in model(x)).backward()
            wanted, x.grad, expected = x.grad, None, gradients(model)
    torch.testing.assert_close(x.grad, wanted, rtol=1e-12, atol=1e-12)
    for one, two in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [tiny_roberta, tiny_llama])
def test_a_model_with_dropout_computes_what_it_does_alone(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks are the same ones, so losses and gradients of several passes are; ranks differ, dropout is on."""

    def losses() -> tuple[list[float], list[torch.Tensor], Dora]:
        model = make()
        head = "lm_head" if make is tiny_llama else "classifier"
        maps = {name: one for name, one in linear_maps(model).items() if head not in name and "pooler" not in name}
        dora = new_dora(rank=2, start_rank=4, dropout=0.3)
        model.requires_grad_(False)
        schedule = dora.plan(8, sites(maps))
        dora.attach(model, sites(maps), schedule=schedule)
        model.train()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in dora.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / 4)
        torch.manual_seed(4)
        found, gradients = [], []
        for step in range(1, 9):
            with dora.training_pass():
                loss = model(input_ids=IDS).logits.square().mean()
                loss.backward()
            found.append(float(loss.detach()))
            gradients += [p.grad.clone() for p in dora.parameters() if p.grad is not None]
            for parameter in dora.parameters():
                parameter.grad = None
            dora.after_step(step)
        return found, gradients, dora

    found, ours, dora = losses()
    kinds = {tuple(len(together.members) for together in pass_of(dora._adapters._passes)._together)}
    assert dora.frozen
    assert len({item.rank for item in dora.allocation()}) > 1
    alone(monkeypatch)
    expected, theirs, before = losses()
    assert not pass_of(before._adapters._passes)._together
    assert kinds != {()}
    assert found == pytest.approx(expected, rel=1e-10)
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("change", [lambda y: y.add_(1), lambda y: y.mul_(2), torch.relu_])
def test_what_they_give_may_be_changed_in_place(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Three(change=change)
    passes, groups = adapted(model)
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    sum(y.square().sum() for y in model(x)).backward()
    expected = gradients(model)
    with passes.around(groups, None):
        outputs = model(x)
        assert not any(y._is_view() for y in outputs)
        sum(y.square().sum() for y in outputs).backward()
    for one, two in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_other_inputs_than_the_firsts_are_computed_alone() -> None:
    """Another one, the same that was changed, one that comes a second time, and one of a pass without gradients."""
    model = Three()
    passes, groups = adapted(model)
    x, z = (torch.randn(4, 12, dtype=torch.float64) for _ in range(2))
    query, key, value = model.query, model.key, model.value

    def outputs() -> list[torch.Tensor]:
        found = [query(x), key(z), value(x), key(x), query(x), key(x), key(x)]
        with torch.no_grad():
            y = x.clone()
            found += [query(z), query(y), key(y.mul_(2))]
            query(z)
        return [*found, key(z), value(z)]

    def loss(found: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([(index + 1) * y.square().sum() for index, y in enumerate(found)]).sum()

    expected = outputs()
    loss(expected).backward()
    wanted = gradients(model)
    with passes.around(groups, None):
        model(x)  # who reads what is found
        found = outputs()
        loss(found).backward()
    assert [y.requires_grad for y in found] == [True] * 7 + [False] * 3 + [True] * 2
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    for one, two in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_one_copy_of_the_weights() -> None:
    """In half precision they lie beside each other, and each projection's is a part of that; where none is copied they
    are the base's own.
    """
    for dtype in (torch.bfloat16, None):
        model = Three().float()
        passes, groups = adapted(model)
        with passes.around(groups, dtype), torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            for _ in range(2):
                sum(y.sum() for y in model(torch.randn(4, 12))).backward()
            (together,) = pass_of(passes)._together
            places = {lean.weight.untyped_storage().data_ptr() for lean in together.members}
            own = {lean.layer.base.weight.untyped_storage().data_ptr() for lean in together.members}
        if dtype is None:
            assert places == own
        else:
            assert len(places) == 1
            (stored,) = {lean.weight.untyped_storage().nbytes() for lean in together.members}
            assert stored == 2 * 12 * (10 + 6 + 6)


@pytest.mark.parametrize(("bias", "width"), [(True, 10), (True, 6), (False, 10), (False, 6)])
def test_half_precision_is_as_exact_as_alone(bias: bool, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64, values and gradients; those of one width and without biases are each in one piece."""
    x = torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def run(dtype: torch.dtype | None) -> list[torch.Tensor]:
        model = Three(bias=bias, width=width, change=torch.Tensor.contiguous)
        passes, groups = adapted(model if dtype is None else model.float())
        read = x.double() if dtype is None else x
        with passes.around(groups, dtype), torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            kept = [layer(read) for layer in (model.query, model.key, model.value)]  # finds nobody
            outputs = model(read)
            again = [layer(read) for layer in (model.query, model.key, model.value)]
            in_one_piece = [y.is_contiguous() for y in again]
            del kept, again
            torch.stack([y.square().sum() for y in outputs]).sum().backward()
        together = bool(pass_of(passes)._together)
        assert in_one_piece == [not together or dtype is None or (width == 6 and not bias)] * 3
        gradient, x.grad = x.grad, None
        return [y.detach().double() for y in (*outputs, gradient, *gradients(model))]

    exact, ours = run(None), run(torch.bfloat16)
    alone(monkeypatch)
    theirs = run(torch.bfloat16)
    for one, two, true in zip(ours, theirs, exact, strict=True):
        assert float((one - true).norm()) < 1.2 * float((two - true).norm()) + 2e-3 * float(true.norm())
        assert float((one - true).norm()) < 0.02 * float(true.norm())


def test_blocks_that_the_user_compiles_are_computed_alone() -> None:
    """Whoever compiles blocks and not the model: their gradients are right, in one graph each, and those of blocks that
    are not compiled are computed as one.
    """
    torch._dynamo.reset()
    counters.clear()
    model = tiny_llama(dtype=torch.float32)
    dora = new_dora(rank=2, dropout=0.0)
    model.requires_grad_(False)
    dora.attach(model, sites({name: one for name, one in linear_maps(model).items() if "lm_head" not in name}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in dora.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)
    blocks = model.train().model.layers
    plain = list(blocks)
    compiled = [torch.compile(block, backend="aot_eager") for block in plain]

    def found(number: int) -> tuple[list[torch.Tensor], int]:
        """Where so many of the blocks are compiled."""
        for place, block in enumerate([*compiled[:number], *plain[number:]]):
            blocks[place] = block
        made = []
        for _ in range(2):
            with dora.training_pass():
                model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
            made += gradients(model)
        lean = pass_of(dora._adapters._passes)
        assert sorted(len(together.members) for together in lean._together) == [2, 2, 3, 3]
        return made, lean.kernels.many().calls  # type: ignore[union-attr, attr-defined]

    expected, calls = found(0)
    # six for each of two passes, two blocks and two inputs; the first input of all has no gradient
    assert calls == 2 * (2 * 2 * 6 - 1)
    for number, called in ((1, 2 * 2 * 6), (2, 0)):
        before = calls
        ours, calls = found(number)
        assert calls - before == called
        assert not counters["graph_break"]
        assert counters["stats"]["unique_graphs"] == number  # one has a gradient of its input, the first has none
        for one, two in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


class Told(nn.Module):
    """Reads one input three times, unless `unless` raises."""

    def __init__(self, unless: Callable[[bool], None]) -> None:
        super().__init__()
        self.three, self.unless, self.modes = Three(), unless, list[bool]()

    def forward(self, x: torch.Tensor) -> Any:
        self.modes.append(self.training)
        query, key = self.three.query(x), self.three.key(x)
        self.unless(self.training)
        return torch.cat([query, key, self.three.value(x)], -1)

    def run(self, passes: Passes, groups: list[Components]) -> list[int]:
        """How many are computed as one after a pass."""
        with passes.around(groups, None):
            self(torch.ones(4, 12, dtype=torch.float64)).sum().backward()
        return [len(together.members) for together in pass_of(passes)._together]


@pytest.mark.parametrize(
    ("kind", "failing"),
    [
        (KeyboardInterrupt, [0]),
        (KeyboardInterrupt, [1]),
        (torch.OutOfMemoryError, [0]),
        (ValueError, [1]),
        (ValueError, [0, 1]),
    ],
    ids=["stopped looking", "stopped training", "no memory", "in training", "in both"],
)
def test_a_first_pass_that_fails_is_not_the_last_to_look(kind: type[BaseException], failing: list[int]) -> None:
    """A run that goes on after it computes as one that was not disturbed."""
    calls = iter(range(100))

    def unless(_: bool) -> None:
        if next(calls) in failing:
            raise kind

    model = Told(unless)
    _, groups = adapted(model.three)
    passes = Passes(model.train())
    with pytest.raises(kind):
        model.run(passes, groups)
    assert [model.run(passes, groups) for _ in range(2)] == [[3], [3]]


def test_a_model_that_cannot_be_evaluated_is_asked_once() -> None:
    def unless(training: bool) -> None:
        if not training:
            raise ValueError("only trains")

    model = Told(unless)
    _, groups = adapted(model.three)
    passes = Passes(model.train())
    assert [model.run(passes, groups) for _ in range(3)] == [[], [], []]
    assert model.modes == [False, True, True, True]


def test_a_pass_of_former_ranks_leaves_memory_at_once() -> None:
    """With its copies of the base, without a collector of cycles."""
    model = Three()
    passes, groups = adapted(model)
    gc.collect()
    gc.disable()
    try:
        with passes.around(groups, None):
            sum(y.sum() for y in model(torch.randn(4, 12, dtype=torch.float64))).backward()
            model.query(torch.randn(4, 12, dtype=torch.float64))  # the others take nothing of it
        former = weakref.ref(pass_of(passes)), weakref.ref(pass_of(passes)._together[0])
        passes.forget()
        assert [one() for one in former] == [None, None]
    finally:
        gc.enable()


def test_backward_after_the_end_of_a_pass_is_refused() -> None:
    model = Three()
    passes, groups = adapted(model)
    with passes.around(groups, None):
        loss = model(torch.randn(4, 12, dtype=torch.float64))[0].sum()
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()


def test_what_a_watch_is_shown() -> None:
    """The small activations of each and their gradients, as it is alone."""
    model = Three()
    passes, groups = adapted(model, (3, 0, 2))
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    shown: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for name in ("query", "value"):
        getattr(model, name).watch = lambda u, v, name=name: shown.setdefault(name, []).append((u, v))
    sum(y.square().sum() for y in model(x)).backward()
    with passes.around(groups, None):
        sum(y.square().sum() for y in model(x)).backward()
    assert pass_of(passes)._together
    for (u, v), (ours, of_ours) in shown.values():
        torch.testing.assert_close(ours, u, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(of_ours, v, rtol=1e-12, atol=1e-12)


def test_base_weights_that_change_between_passes_count() -> None:
    model = Three().float()
    passes, groups = adapted(model)
    x = torch.randn(4, 12)

    def lean() -> list[torch.Tensor]:
        with passes.around(groups, torch.bfloat16), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return [y.detach().float() for y in model(x)]

    before = lean()
    with torch.no_grad():
        model.key.base.weight.mul_(-2)
        model.value.base.bias.add_(1)
    after = lean()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plain = [y.detach().float() for y in model(x)]
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)
    assert all(float((one - two).abs().max()) > 0.1 for one, two in zip(before[1:], after[1:], strict=True))
    torch.testing.assert_close(after, plain, rtol=5e-2, atol=5e-2)


def test_calls_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """RoBERTa's two blocks have three projections of one input and three others; three together take six calls."""
    counts: Counter[str] = Counter()
    for name in ("down", "up", "outer"):
        plain = getattr(TorchKernels, name)

        def counted(self: Any, *args: Any, name: str = name, plain: Any = plain, **settings: Any) -> Any:
            counts[name] += 1
            return plain(self, *args, **settings)

        monkeypatch.setattr(TorchKernels, name, counted)
    calls = {}
    for kernels in (TogetherKernels, TorchKernels):
        monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_, kernels=kernels: kernels(device))
        model = tiny_roberta()
        maps = linear_maps(model, "encoder.layer")
        dora = new_dora(rank=2, dropout=0.0)
        model.requires_grad_(False)
        dora.attach(model, sites(maps))
        model.get_input_embeddings().weight.requires_grad_(True)
        for _ in range(2):
            counts.clear()
            made = None
            with dora.training_pass():
                many = pass_of(dora._adapters._passes).kernels.many()
                before = many.calls if many is not None else 0  # type: ignore[attr-defined]
                model(input_ids=IDS).logits.sum().backward()
                made = many.calls - before if many is not None else 0  # type: ignore[attr-defined]
        calls[kernels] = dict(counts), made
    each = {"down": 2 * 12, "up": 2 * 12, "outer": 2 * 12}
    assert calls[TorchKernels] == (each, 0)
    assert calls[TogetherKernels] == (each, 2 * 6)  # the plain way of many calls for each of the three


def test_parts_of_wide_memory() -> None:
    memory = torch.arange(3 + 4 * 5.0)[3:]
    beside, after = (make(memory, 4, (2, 3)) for make in (Wide.beside, Wide.after))
    torch.testing.assert_close(beside.part(1), memory.view(4, 5)[:, 2:])
    torch.testing.assert_close(after.part(1), memory[8:].view(4, 3))
    torch.testing.assert_close(Wide.same(memory.view(4, 5), 2).part(1), memory.view(4, 5))
