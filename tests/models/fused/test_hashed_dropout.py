"""Dropout by a hash of seed and position: its masks, and what compiled blocks make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from dora_cli.errors import ModelError
from dora_cli.methods.low_rank.arithmetic.dropout import (
    HASH_BITS,
    HASH_CALL,
    HASH_FIRST,
    HASH_LAST,
    HASH_SECOND,
    cut,
    scale,
)
from dora_cli.models.fused import hashed_dropout
from dora_cli.models.fused.fused_blocks import FusedBlocks
from dora_cli.models.fused.hashed_dropout import Draws, HashedDropouts, hashed_mask
from tests.methods.low_rank.lean.test_lean_pass import check_patterns
from tests.methods.small import new_lora, sites

P = 0.3
SCALE = scale(cut(P, HASH_BITS), HASH_BITS)
SQUARE = torch.Size((1024, 1024))


def seeds(count: int) -> list[torch.Tensor]:
    return list(torch.randint(2**63 - 1, (count,), generator=torch.Generator().manual_seed(5)).unbind())


def mask(
    probability: float, *, shape: torch.Size = SQUARE, seed: torch.Tensor | None = None, use: int = 0
) -> torch.Tensor:
    return hashed_mask(shape, seeds(1)[0] if seed is None else seed, use, cut(probability, HASH_BITS))


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 66)])
@pytest.mark.parametrize("use", [0, 1, 5])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_a_mask_is_the_hash(shape: tuple[int, ...], use: int, probability: float) -> None:
    """The same in whole numbers without an end, of which 32 bits are kept."""
    seed, threshold, bits = int(seeds(1)[0]), cut(probability, HASH_BITS), 2**32 - 1
    expected = []
    for number in range(4 * use, 4 * use + torch.Size(shape).numel()):
        value = (number // 4 + seed + use * HASH_CALL) & bits
        value = (value ^ (value >> 16)) * HASH_FIRST & bits
        value = (value ^ (value >> 15) ^ (seed >> 32)) * HASH_SECOND & bits
        value = (value ^ (value >> 15)) * HASH_LAST[number % 4] & bits
        expected.append(value ^ 2**31 >= threshold)  # as numbers with a sign are ordered
    found = mask(probability, shape=torch.Size(shape), use=use)
    assert found.shape == shape
    assert found.flatten().tolist() == expected


def test_numbers_beyond_32_bits_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = mask(P, use=2)
    monkeypatch.setattr(hashed_dropout, "_NARROW", 2**20)
    assert torch.equal(mask(P, use=2), expected)


@pytest.mark.parametrize("probability", [1e-9, 0.05, 0.1, 0.5, 0.9])
def test_masks_keep_as_many_as_they_should(probability: float) -> None:
    """Six standard deviations of a binomial: of all, of every row and of every column."""
    kept = mask(probability).double()
    for means in (kept.mean(), kept.mean(0), kept.mean(1)):
        samples = kept.numel() // max(1, means.numel())
        bound = 6 * (probability * (1 - probability) / samples) ** 0.5 + 2.0**-HASH_BITS
        assert float((means - (1 - probability)).abs().max()) < bound


@pytest.mark.parametrize("probability", [0.1, 0.5])
@pytest.mark.parametrize("apart", [1, 2, 3, 4, 64])
def test_masks_have_every_pattern_as_often_as_they_should(probability: float, apart: int) -> None:
    """At the corners of rectangles, and of four that share their rounds."""
    kept = mask(probability).long()
    for down in (1, 2, 64):
        corners = kept[:-down, :-apart], kept[down:, :-apart], kept[:-down, apart:], kept[down:, apart:]
        check_patterns(sum(2**bit * corner[::2] for bit, corner in enumerate(corners)), probability)
    check_patterns(kept.view(1024, -1, 4) @ torch.tensor([1, 2, 4, 8]), probability)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_no_two_elements_of_a_mask_are_correlated(probability: float) -> None:
    """At any of half a million distances: the largest of so many normal deviations is 5 in the mean, and above 7 once
    in a million times.
    """
    deviations = _standard(mask(probability), probability)
    spectrum = torch.fft.rfft(deviations, 2 * len(deviations))
    distances = torch.arange(1, len(deviations) // 2)
    found = torch.fft.irfft(spectrum.abs() ** 2)[distances] / (len(deviations) - distances) ** 0.5
    assert float(found.abs().max()) < 7
    assert float(found.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_masks_of_other_seeds_and_uses_are_not_correlated(probability: float) -> None:
    """In place, nor moved against each other by any distance."""
    first, *others = seeds(4)
    drawn = [mask(probability, seed=first, use=use) for use in range(3)]
    drawn += [mask(probability, seed=seed) for seed in others]
    spectra = [torch.fft.rfft(_standard(one, probability)) for one in drawn]
    for one, two in pairwise([*spectra, spectra[0]]):
        found = torch.fft.irfft(one * two.conj()) / SQUARE.numel() ** 0.5
        assert abs(float(found[0])) < 4
        assert float(found.abs().max()) < 7


def _standard(kept: torch.Tensor, probability: float) -> torch.Tensor:
    """A mask with a mean of 0 and a variance of 1."""
    return (kept.flatten().double() - (1 - probability)) / (probability * (1 - probability)) ** 0.5


def test_seeds_are_drawn_for_every_pass_and_block_beyond_those_drawn_at_once_too() -> None:
    draws = Draws(2, 3, torch.device("cpu"))

    def drawn() -> list[int]:
        draws.begin()
        found = []
        for _ in range(4):
            draws.begin_block()
            found += [int(seed) for seed in draws.seeds]
        return found

    torch.manual_seed(1)
    found = drawn() + drawn()
    assert len(set(found)) == 2 * 4 * 3
    torch.manual_seed(1)
    assert drawn() + drawn() == found
    assert all(seed.data_ptr() % 16 == 0 for seed in draws.seeds)


# -- in blocks ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Dropouts around two maps, one of which drops twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.att, self.up = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.after_att, self.after_up = nn.Dropout(P), nn.Dropout(P)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.after_att(self.att(x)))
        return x + self.after_up(self.after_up(self.up(x)).tanh())


class Model(nn.Module):
    """Two blocks, one of which is called twice, and a dropout of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.drop = nn.Dropout(0.0)
        self.double().requires_grad_(False)
        self.method = new_lora(rank=2, dropout=0.0)
        found = sites({name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)})
        self.method.attach(self, found, [], self.method.plan(10, found))
        for parameter in self.method.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> Any:
        for layer in (*self.layers, self.layers[0]):
            x = layer(x)
        return self.drop(x)

    def dropouts(self) -> list[nn.Dropout]:
        return [module for module in self.layers.modules() if type(module) is nn.Dropout]


class Literal(nn.Module):
    """Drops by the masks of a list, one after the other."""

    def __init__(self, masks: Iterator[torch.Tensor]) -> None:
        super().__init__()
        self._masks = masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * next(self._masks).view(x.shape) * SCALE


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def fused(model: Model, backend: str | Callable[..., Any], note: Callable[[str], Any] = pytest.fail) -> FusedBlocks:
    return FusedBlocks(model, model.method.sites, note=note, backend=backend, hashed=True)


def one_pass(model: Model, blocks: FusedBlocks | None, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """What comes out, and all gradients."""
    torch.manual_seed(seed)
    inputs = x.clone().requires_grad_()
    with model.method.training_pass(), nullcontext() if blocks is None else blocks.around(None):
        y = model(inputs)
        y.square().sum().backward()
    found = [y.detach(), *(p.grad for p in model.method.parameters() if p.grad is not None)]
    model.zero_grad()
    return found


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(
        torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(one, two, strict=True)
    )


X = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.slow
def test_compiled_blocks_drop_by_masks_of_their_own_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against masks in the open: a call of a block has seeds, here two, and its third dropout the first one again."""
    monkeypatch.setattr(hashed_dropout, "_DROPOUTS", 2)
    model = Model()
    blocks = fused(model, "inductor")
    found = one_pass(model, blocks, X)
    drawn = blocks._hashed._draws._all[:, :, 0]
    threshold = cut(P, HASH_BITS)
    masks = [hashed_mask(X.shape, drawn[call, use % 2], use, threshold) for call in range(3) for use in range(3)]
    for index, one in enumerate(masks):
        assert not any(torch.equal(one, two) for two in masks[:index])
    plain, literal = Model(), Literal(iter(masks))
    for block in plain.layers:
        block.after_att = block.after_up = literal
    assert len(found) > 1
    assert same(found, one_pass(plain, None, X))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_every_pass_drops_anew_and_torchs_generator_decides() -> None:
    model = Model()
    blocks = fused(model, "eager")
    first, second = (one_pass(model, blocks, X, seed) for seed in (1, 2))
    assert not same(first, second)
    assert same(one_pass(model, blocks, X, 1), first)
    assert same(one_pass(model, blocks, X[:2, :3], 1), one_pass(model, blocks, X[:2, :3], 1))
    assert counters["stats"]["unique_graphs"] == 1


def test_blocks_as_they_stand_drop_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pass in which the compiler fails; and within a capture, which compiles nothing."""
    model, notes = Model(), list[str]()
    expected = one_pass(model, fused(model, "eager"), X)
    blocks = fused(model, _fails, notes.append)
    assert same(one_pass(model, blocks, X), expected)
    assert len(notes) == 1
    blocks = fused(model, "eager")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(blocks, "_device", torch.device("cuda"))
    torch._dynamo.reset()
    counters.clear()
    assert same(one_pass(model, blocks, X), expected)
    assert not counters["stats"]["unique_graphs"]


def test_once_the_compiler_has_failed_pytorch_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    blocks = fused(model, _fails, lambda _: None)
    one_pass(model, blocks, X)
    monkeypatch.setattr(hashed_dropout, "hashed_mask", None)
    assert same(one_pass(model, blocks, X), one_pass(model, None, X))


def test_on_the_cpu_compiled_blocks_drop_as_the_compiler_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashed_dropout, "hashed_mask", None)
    model = Model()
    blocks = FusedBlocks(model, model.method.sites, note=pytest.fail, backend="eager")
    assert not same(one_pass(model, blocks, X, 1), one_pass(model, blocks, X, 2))


def _fails(*_: object) -> NoReturn:
    raise NotImplementedError("no such kernel")


@pytest.mark.slow
def test_masks_are_computed_again_in_the_backward_pass() -> None:
    """What compiled blocks save are activations and seeds."""
    model, saved = Model(), list[torch.Tensor]()
    blocks = fused(model, "inductor")
    x = X.float()
    model.float()
    with saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        one_pass(model, blocks, x)
    assert any(tensor.numel() == x.numel() for tensor in saved)
    assert not any(tensor.numel() > 1 for tensor in saved if not tensor.is_floating_point())


def test_a_block_that_is_computed_again_in_the_backward_pass_is_refused() -> None:
    """It would drop others the second time."""
    model = Model()
    blocks = fused(model, "eager")
    inputs = X.clone().requires_grad_()
    with pytest.raises(ModelError, match="activation checkpointing"), blocks.around(None):
        checkpoint(model, inputs, use_reentrant=False).sum().backward()
    dropouts = HashedDropouts([model], torch.device("cpu"))
    dropouts.begin()
    within = checkpoint(model.layers[0].after_att, inputs, use_reentrant=False).sum()
    with pytest.raises(ModelError, match="activation checkpointing"):
        within.backward()


# -- which modules -----------------------------------------------------------------------------------------------------


def test_kept_values_are_scaled_and_the_rest_is_zero_forward_and_backward() -> None:
    module = nn.Dropout(P)
    dropouts = HashedDropouts([module], torch.device("cpu"))
    dropouts.begin()
    dropouts.begin_block()
    x = torch.randn(64, 200, dtype=torch.float64, requires_grad=True)
    y = module(x)
    kept, weights = y != 0, torch.randn_like(y).T.contiguous().T  # not contiguous, as gradients may come
    (y * weights).sum().backward()
    torch.testing.assert_close(y, torch.where(kept, SCALE * x, 0.0), rtol=1e-15, atol=0)
    torch.testing.assert_close(x.grad, torch.where(kept, SCALE * weights, 0.0), rtol=1e-15, atol=0)
    assert module(torch.ones(8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("module", "training"),
    [(nn.Dropout(0.0), True), (nn.Dropout(1.0), True), (nn.Dropout(P), False), (nn.Dropout(P, inplace=True), True)],
)
def test_whatever_is_no_plain_dropout_is_left_to_pytorch(module: nn.Dropout, training: bool) -> None:
    """And where all is, no seed is drawn."""
    module.train(training)
    dropouts, state = HashedDropouts([module], torch.device("cpu")), torch.get_rng_state()
    dropouts.begin()
    assert "forward" not in vars(module)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fails", [False, True])
def test_modules_are_as_they_were_after_a_pass(fails: bool) -> None:
    """Also what somebody had replaced, which compiled blocks run, or replaces meanwhile."""
    model = Model()
    theirs, meanwhile, *others = model.dropouts()
    own: Callable[[torch.Tensor], torch.Tensor] = partial(torch.mul, 2.0)
    theirs.forward = own  # type: ignore[method-assign, assignment]
    seen = list[Any]()

    def look(*_: object) -> None:
        seen.extend(vars(module)["forward"] for module in (theirs, meanwhile))
        meanwhile.forward = own  # type: ignore[method-assign, assignment]
        if fails:
            raise ZeroDivisionError

    model.drop.register_forward_pre_hook(look)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        one_pass(model, fused(model, "eager"), X)
    assert seen[0] is own
    assert seen[1] is not own
    assert theirs.forward is own
    assert meanwhile.forward is own
    assert not any("forward" in vars(module) for module in others)
