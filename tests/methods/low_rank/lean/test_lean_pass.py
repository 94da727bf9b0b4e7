"""The lean training pass against autograd's own way, and the dropout that it draws."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.methods import Dora
from dora_cli.methods.low_rank.arithmetic.dropout import HASH_BITS, cut, draw_mask, hashed_keep, scale
from dora_cli.methods.low_rank.arithmetic.kernels import Kept, TorchKernels
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.lean import lean_pass as lean_module
from dora_cli.methods.low_rank.lean.passes import Passes
from dora_cli.methods.low_rank.lean.projection import LeanProjection
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.methods.small import classification, linear_maps, new_dora, sites, small_encoder, tiny_gpt2, tiny_roberta

MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "home-made": (small_encoder, "blocks"),
    "roberta": (tiny_roberta, "encoder.layer"),
    "gpt2": (tiny_gpt2, "transformer.h"),
}


@pytest.fixture(autouse=True, params=["alone", "together"])
def _computed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections of the same input one by one, as on a CPU, and as one, as on a GPU."""
    if request.param == "together":
        monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TogetherKernels(device))


def attached(name: str = "home-made", *, dropout: float = 0.0, ranks: bool = False) -> tuple[nn.Module, Dora]:
    """A model whose gates are not zero; with `ranks` after an uneven freeze, so that ranks differ."""
    make, within = MODELS[name]
    model = make()
    projections = linear_maps(model, within)
    dora = new_dora(rank=2, start_rank=4, dropout=dropout)
    model.requires_grad_(False)
    schedule = dora.plan(20, sites(projections))
    dora.attach(model, sites(projections), schedule=schedule)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in dora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    if ranks:
        for step in range(1, schedule.freeze_step + 1):
            dora.after_step(step)
        assert len({item.rank for item in dora.allocation()}) > 1
    return model.train(), dora


def loss_of(name: str) -> Callable[[nn.Module], torch.Tensor]:
    if name == "home-made":
        return classification()
    ids = torch.randint(3, 40, (6, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[3:, 5:] = 0
    return lambda model: nn.functional.cross_entropy(
        model(input_ids=ids, attention_mask=mask).logits, torch.arange(6) % 3
    )


def gradients(dora: Dora) -> list[torch.Tensor]:
    taken = [parameter.grad.clone() for parameter in dora.parameters() if parameter.grad is not None]
    for parameter in dora.parameters():
        parameter.grad = None
    return taken


@pytest.mark.parametrize("ranks", [False, True], ids=["start", "frozen"])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_autograd(name: str, ranks: bool) -> None:
    model, dora = attached(name, ranks=ranks)
    loss = loss_of(name)
    plain = loss(model)
    plain.backward()
    expected = gradients(dora)
    with dora.training_pass():
        lean = loss(model)
        lean.backward()
    torch.testing.assert_close(lean, plain, rtol=1e-12, atol=0)
    found = gradients(dora)
    assert len(found) == len(expected) == len(dora.parameters())
    assert all(float(gradient.abs().max()) > 0 for gradient in found)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_what_trains_before_the_projections_gets_its_gradient() -> None:
    """The gradient of the input goes on to embeddings, prompts and the like."""
    model, dora = attached()
    x = torch.randn(3, 4, 10, dtype=torch.float64, requires_grad=True)
    model(x).square().sum().backward()
    expected, x.grad = x.grad, None
    with dora.training_pass():
        model(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-10, atol=1e-12)


def test_passes_add_up() -> None:
    """Accumulation: two passes give the sum, whether gradients were none, zero, or autograd's own before."""
    model, dora = attached()
    one, two = classification(seed=1), classification(seed=2)
    (one(model) + two(model)).backward()
    expected = gradients(dora)
    for first_is_lean in (True, False):
        if first_is_lean:
            with dora.training_pass():
                one(model).backward()
        else:
            one(model).backward()
        with dora.training_pass():
            two(model).backward()
        for found, wanted in zip(gradients(dora), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_module_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(5, 5, bias=False, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.map(torch.tanh(self.map(x)))

    torch.manual_seed(0)
    model = Twice()
    model.requires_grad_(False)
    dora = new_dora(rank=2, dropout=0.0)
    dora.attach(model, sites({"map": model.map}))
    nn.init.normal_(dora.parameters()[2])
    x = torch.randn(7, 5, dtype=torch.float64)
    model(x).square().sum().backward()
    expected = gradients(dora)
    with dora.training_pass():
        model(x).square().sum().backward()
    for found, wanted in zip(gradients(dora), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_outside_a_pass_the_plain_way_is_taken_also_after_an_error() -> None:
    model, dora = attached()
    with pytest.raises(RuntimeError, match="planted"), dora.training_pass():
        raise RuntimeError("planted")
    loss = classification()(model)
    found = torch.autograd.grad(loss, dora.parameters())  # only the plain way knows these
    assert all(gradient.abs().sum() > 0 for gradient in found)


def test_a_model_that_was_moved_or_copied_trains_on() -> None:
    """Moving gives parameters memory of their own; the factors are then put together again."""
    model, dora = attached()
    plain = classification()(model)
    plain.backward()
    expected = gradients(dora)
    for parameter in dora.parameters():
        parameter.data = parameter.data.clone()
    with dora.training_pass():
        classification()(model).backward()
    for found, wanted in zip(gradients(dora), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_half_precision_arithmetic_is_as_exact_as_autocasts() -> None:
    """Against float64: rounding errors of the lean pass are about those of autograd under the same autocast."""
    model, dora = attached("roberta")
    with torch.no_grad():
        for parameter in dora.parameters()[2::3]:
            parameter.mul_(0.02)  # or the small model would amplify every rounding
    loss = loss_of("roberta")
    loss(model).backward()
    exact = gradients(dora)
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        plain = loss(model)
    plain.backward()
    plainly = gradients(dora)
    with dora.training_pass(torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            lean = loss(model)
        lean.backward()
    for one, two, true in zip(gradients(dora), plainly, exact, strict=True):
        assert one.dtype == torch.float32
        assert float((one - true).norm()) < 2 * float((two - true).norm()) + 0.01 * float(true.norm())
        assert float((one - true).norm()) < 0.1 * float(true.norm())


def test_one_copy_of_an_input_serves_all_that_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dora = attached("roberta")
    model.float()
    copies: list[torch.Tensor] = []
    plain = TorchKernels.down

    def down(self: TorchKernels, x: torch.Tensor, *others: Any, **settings: Any) -> torch.Tensor:
        copies.append(x)
        return plain(self, x, *others, **settings)

    monkeypatch.setattr(TorchKernels, "down", down)
    # takes autocast's type by itself
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), dora.training_pass():
        loss_of("roberta")(model)
    query, key, value = copies[:3]
    assert query.data_ptr() == key.data_ptr() == value.data_ptr()


def test_partial_sums_of_a_pass_that_failed_are_forgotten() -> None:
    """Backward broke off between two projections, in memory for example; the next pass starts from
    cleared gradients.
    """
    model, dora = attached()
    with dora.training_pass():
        classification()(model).backward()
    expected = gradients(dora)

    def fail(gradient: torch.Tensor) -> None:
        raise RuntimeError("planted")

    handle = model.blocks[0].register_forward_hook(lambda module, inputs, output: output.register_hook(fail) and None)
    with pytest.raises(RuntimeError, match="planted"), dora.training_pass():
        classification()(model).backward()
    handle.remove()
    gradients(dora)
    with dora.training_pass():
        classification()(model).backward()
    for found, wanted in zip(gradients(dora), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_backward_after_the_end_of_a_pass_is_refused() -> None:
    """Its gradients of B and c would be missing in this step and turn up in the next."""
    model, dora = attached()
    with dora.training_pass():
        loss = classification()(model)
    with pytest.raises(RuntimeError, match="after the end of its training pass"):
        loss.backward()


def test_base_weights_that_change_between_passes_count() -> None:
    model, dora = attached("roberta")
    model.float()

    def lean() -> torch.Tensor:
        with dora.training_pass(torch.bfloat16), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            loss = loss_of("roberta")(model)
            loss.backward()
        return loss.detach()

    before = lean()
    changed = {
        key: -2 * value if key.endswith(("base.weight", "base.bias")) else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(changed)
    after = lean()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        plain = loss_of("roberta")(model)
    assert abs(float(after - before)) > 0.05
    torch.testing.assert_close(after, plain.detach(), rtol=2e-2, atol=0)


def test_a_base_that_trains_gets_its_gradient() -> None:
    model, dora = attached()
    bias = model.blocks[0].att.bias.requires_grad_(True)
    classification()(model).backward()
    expected, wanted = gradients(dora), bias.grad
    bias.grad = None
    with dora.training_pass():
        classification()(model).backward()
    torch.testing.assert_close(bias.grad, wanted, rtol=1e-9, atol=1e-12)
    for one, two in zip(gradients(dora), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_sees_the_same_dropout_twice(
    reentrant: bool, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same pass without it.

    Kernels that would draw another mask leave the pass to autograd, so there it is without them.
    """
    monkeypatch.setattr(TorchKernels, "draws_alike", alike)
    model, dora = attached("roberta", dropout=0.3)
    # reentrant checkpoints need an input with a gradient
    embeddings = model.get_input_embeddings().weight.requires_grad_(True)
    torch.manual_seed(4)
    with dora.training_pass() if alike else nullcontext():
        loss_of("roberta")(model).backward()
    expected, embeddings.grad = gradients(dora), None
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert any(module.__dict__.get("gradient_checkpointing") for module in model.modules())
    torch.manual_seed(4)
    with dora.training_pass():
        lean = [module.lean is not None for module in model.modules() if isinstance(module, AdaptedProjection)]
        loss_of("roberta")(model).backward()
    assert set(lean) == {alike}
    for one, two in zip(gradients(dora), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_failed_beginning_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out while the base is copied, after some layers have theirs."""
    model, dora = attached()
    plain, count = LeanProjection.follow_base, [0]

    def follow_base(self: LeanProjection) -> bool:
        count[0] += 1
        if count[0] == 2:
            raise MemoryError
        return plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(LeanProjection, "follow_base", follow_base)
        with pytest.raises(MemoryError), dora.training_pass():
            raise AssertionError("the pass has begun")
    assert all(module.lean is None for module in model.modules() if isinstance(module, AdaptedProjection))
    with dora.training_pass():
        classification()(model).backward()
    assert all(gradient.any() for gradient in gradients(dora))


@pytest.mark.parametrize("change", [lambda y: y.add_(1), lambda y: y.mul_(2), torch.relu_])
def test_a_model_may_change_a_projections_output_in_place(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Falcon and Longformer do."""

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 5).double(), nn.Linear(5, 4).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.two(change(self.one(x)))
            return y

    torch.manual_seed(0)
    model, dora = Changing(), new_dora(rank=2, dropout=0.0)
    dora.attach(model, sites({"one": model.one, "two": model.two}))
    with torch.no_grad():
        for parameter in dora.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    model(x).square().sum().backward()
    expected = gradients(dora)
    with dora.training_pass():
        model(x).square().sum().backward()
    for one, two in zip(gradients(dora), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_a_pass_of_former_ranks_leaves_memory_at_once() -> None:
    """With its copies of the base; a collector of cycles may come much later."""
    model, dora = attached()
    schedule = dora.schedule
    assert schedule is not None
    gc.collect()
    gc.disable()
    try:
        for step in range(1, schedule.freeze_step + 1):
            with dora.training_pass():
                classification()(model).backward()
            former = weakref.ref(dora._adapters._passes._lean)
            dora.after_step(step)
        assert dora.frozen
        assert former() is None
        with dora.training_pass():
            classification()(model).backward()
        former = weakref.ref(dora._adapters._passes._lean)
        dora.merge()
        assert former() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("rank", [2, 0])
def test_a_half_precision_output_may_be_changed_in_place(rank: int) -> None:
    """Outside autocast it is in the type of the base, not that of the arithmetic; without a component too."""
    torch.manual_seed(0)
    base = nn.Linear(6, 5).bfloat16().requires_grad_(False)
    layer = AdaptedProjection(base, torch.randn(rank, 6), torch.randn(5, rank), scaling=1.0, dropout=0.0)
    passes, x = Passes(layer), torch.randn(3, 7, 6, dtype=torch.bfloat16, requires_grad=True)
    expected = layer(x).mul(2)
    with passes.around([Components([layer])], None):
        y = layer(x).mul_(2)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


def test_factors_made_ready_for_a_dropout_that_is_not_drawn() -> None:
    """A part of the model that is in evaluation within a pass: its factors were scaled, its numbers are not."""
    model, dora = attached(dropout=0.5, ranks=True)
    block, x = model.blocks[0].eval(), torch.ones(2, 3, 10, dtype=torch.float64)
    with dora.training_pass():
        found = block(x)
    torch.testing.assert_close(found, block(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("change", ["assigned", "cast"])
def test_parameters_that_were_replaced_are_noticed(change: str) -> None:
    model, dora = attached()
    (group, *_) = dora._adapters.groups()
    assert group.holds
    layer = group.layers[0]
    if change == "assigned":
        layer.A = nn.Parameter(layer.A.detach().clone())
    else:
        model.float()
    assert not group.holds


def test_a_half_precision_base_outside_autocast_answers_in_its_type() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5)).bfloat16()
    dora = new_dora(rank=2, dropout=0.0)
    dora.attach(model, sites({"0": model[0]}))
    x = torch.randn(3, 6, dtype=torch.bfloat16)
    plain = model(x)
    with dora.training_pass():
        torch.testing.assert_close(model(x), plain, rtol=2e-2, atol=2e-2)


def test_a_batch_of_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5))
    dora = new_dora(rank=2, dropout=0.5)
    dora.attach(model, sites({"0": model[0]}))
    x = torch.zeros(0, 3, 6, requires_grad=True)
    with dora.training_pass():
        y = model.train()(x)
        y.sum().backward()
    assert (y.shape, x.grad.shape) == ((0, 3, 5), (0, 3, 6))
    assert not any(gradient.any() for gradient in gradients(dora))


# -- dropout -----------------------------------------------------------------------------------------------------------


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Kept]]:
    drawn: list[Kept] = []
    plain = TorchKernels.drop

    def drop(self: TorchKernels, *arguments: Any) -> Kept:
        drawn.append(plain(self, *arguments))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(TorchKernels, "drop", drop)
        yield drawn


def test_gradients_under_dropout_are_those_of_the_masks_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain layer, with the very masks of the lean pass in place of its own dropout."""
    model, dora = attached(dropout=0.3)
    loss = classification()
    with recorded(monkeypatch) as drawn, dora.training_pass():
        lean = loss(model)
        lean.backward()
    found = gradients(dora)
    assert len(drawn) == len(linear_maps(model, "base"))
    masks = iter(drawn)

    def replayed(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        kept = next(masks)
        return x * kept.mask.view(x.shape) * kept.scale

    monkeypatch.setattr("dora_cli.methods.low_rank.layer.F.dropout", replayed)
    plain = loss(model)
    plain.backward()
    torch.testing.assert_close(lean, plain, rtol=1e-12, atol=0)
    for one, two in zip(found, gradients(dora), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_masks_differ_between_projections_and_passes_and_follow_the_random_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, dora = attached(dropout=0.5)
    state = torch.get_rng_state()
    passes = []
    for again in (False, False, True):
        if again:
            torch.set_rng_state(state)
        with recorded(monkeypatch) as drawn, dora.training_pass():
            classification()(model)
        passes.append([kept.mask for kept in drawn])
    first, second, repeated = passes
    assert all(torch.equal(one, two) for one, two in zip(first, repeated, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    alike = [mask for mask in first if mask.shape == first[0].shape]
    assert len(alike) > 1
    assert not any(torch.equal(alike[0], other) for other in alike[1:])


def test_in_evaluation_nothing_is_dropped() -> None:
    model, dora = attached(dropout=0.5)
    expected = classification()(model.eval())
    with dora.training_pass():
        torch.testing.assert_close(classification()(model), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_masks_keep_as_many_as_they_should(probability: float) -> None:
    """Six standard deviations of a binomial; along rows and columns as well, where a poor generator would show."""
    torch.manual_seed(0)
    hashed = hashed_keep(512, 768, torch.tensor(0x1234567890ABCDEF), 1, cut(probability, HASH_BITS))
    drawn, factor = draw_mask(torch.Size((512, 768)), probability)
    assert factor * (1 - probability) == pytest.approx(1, rel=2**-15 / (1 - probability))
    for mask in (hashed, drawn):
        for means in (mask.float().mean(), mask.float().mean(0), mask.float().mean(1)):
            samples = mask.numel() // max(1, means.numel())
            assert (
                float((means - (1 - probability)).abs().max())
                < 6 * (probability * (1 - probability) / samples) ** 0.5 + 2**-16
            )
        shifted = (mask[:, 1:] == mask[:, :-1]).float().mean(), (mask[1:] == mask[:-1]).float().mean()
        same = probability**2 + (1 - probability) ** 2
        assert all(
            abs(float(value) - same) < 6 * (same * (1 - same) / mask.numel()) ** 0.5 + 2**-15 for value in shifted
        )


@pytest.mark.parametrize("probability", [0.1, 0.5])
@pytest.mark.parametrize("apart", [1, 2, 3, 4, 64])
def test_hashed_masks_have_every_pattern_as_often_as_they_should(probability: float, apart: int) -> None:
    """At the corners of rectangles, where it would show that rows and columns are hashed apart."""
    keep = hashed_keep(1024, 1024, torch.tensor(0x1234567890ABCDEF), 1, cut(probability, HASH_BITS)).long()
    for down in (1, 2, 64):
        corners = keep[:-down, :-apart], keep[down:, :-apart], keep[:-down, apart:], keep[down:, apart:]
        places = sum(2**bit * corner[::2] for bit, corner in enumerate(corners))
        check_patterns(places, probability)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_columns_that_share_a_hash_are_independent(probability: float) -> None:
    keep = hashed_keep(1024, 1024, torch.tensor(0x1234567890ABCDEF), 1, cut(probability, HASH_BITS)).long()
    check_patterns(keep.view(1024, -1, 4) @ torch.tensor([1, 2, 4, 8]), probability)


def check_patterns(patterns: torch.Tensor, probability: float) -> None:
    """All 16 of four bits, each of which is 1 where an input is kept, within six standard deviations."""
    for pattern, count in enumerate(torch.bincount(patterns.reshape(-1), minlength=16).tolist()):
        kept = pattern.bit_count()
        expected = (1 - probability) ** kept * probability ** (4 - kept)
        deviation = (expected * (1 - expected) / patterns.numel()) ** 0.5
        assert abs(count / patterns.numel() - expected) < 6 * deviation


def test_chunks_begin_with_new_hashes() -> None:
    seed, threshold = torch.tensor(11), cut(0.5, HASH_BITS)
    masks = hashed_keep(64, 99, seed, 1, threshold, chunks=3)
    assert torch.equal(masks[:, :33], hashed_keep(64, 33, seed, 1, threshold))
    assert torch.equal(masks, hashed_keep(64, 3 * 36, seed, 1, threshold).view(64, 3, 36)[:, :, :33].reshape(64, 99))


def test_hashed_masks_of_two_seeds_or_calls_are_independent() -> None:
    threshold = cut(0.5, HASH_BITS)
    masks = [
        hashed_keep(256, 256, torch.tensor(seed), call, threshold)
        for seed in (7, 8, 7 + (1 << 32), 1 << 62)
        for call in (1, 2)
    ]
    for index, one in enumerate(masks):
        for two in masks[:index]:
            assert abs(float((one == two).float().mean()) - 0.5) < 6 * 0.5 / 256


def test_masks_of_two_calls_are_not_shifted_copies() -> None:
    """Whatever the seed: with this one they would be if calls were but places of one sequence."""
    seed, threshold = torch.tensor(1226821113817176039), cut(0.5, HASH_BITS)
    first, third = (hashed_keep(64, 512, seed, call, threshold) for call in (1, 3))
    for shift in range(-64, 65, 4):
        one, two = first[:, max(0, shift) :][:, :448], third[:, max(0, -shift) :][:, :448]
        assert abs(float((one == two).float().mean()) - 0.5) < 6 * 0.5 / one.numel() ** 0.5


def test_the_scale_makes_the_expectation_exact() -> None:
    for bits in (16, 32):
        for probability in (1e-9, 0.1, 1 / 3, 0.999999):
            threshold = cut(probability, bits)
            assert 0 <= threshold < 2**bits
            assert scale(threshold, bits) * (1 - threshold / 2**bits) == pytest.approx(1, rel=1e-12)
