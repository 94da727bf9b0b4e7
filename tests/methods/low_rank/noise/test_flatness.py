"""Noise on adapted weights: how large, how often, where from, and that nothing is left of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from dora_cli.methods import Dora, Lora
from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.noise.flatness import Flatness, Noise, hashed_normals, key, ramp, words
from tests.methods.small import gated, linear_maps, new_dora, new_lora, sites, small_encoder

T = 20


def noisy_layer(base: nn.Module, sigma: float = 0.5, *, step: int = 13, number: int = 4) -> AdaptedProjection:
    """A gated layer that has learned something, its noise that of `step`."""
    layer = gated(base, rank=3, scaling=2.0, dropout=0.0)
    with torch.no_grad():
        for parameter in (layer.A, layer.B, layer.gates):
            parameter.normal_()
    flatness = Flatness(sigma, total_steps=T, seed=7)
    flatness.begin_step(step)
    layer.noise = Noise(flatness, number)
    return layer.train()


def noise_of(layer: AdaptedProjection) -> torch.Tensor:
    """`eps` of the present step, as it reaches a map of the identity."""
    one = torch.eye(layer.in_features, dtype=layer.A.dtype)
    with torch.no_grad():
        return (layer.train()(one) - layer.eval()(one)).T


def attached(method: Lora | Dora, model: nn.Module, *, seed: int = 3, step: int = 13) -> nn.Module:
    """`model` under `method`, whose gates and factors have become other than at the start, at `step` of `T`."""
    model.requires_grad_(False)
    places = sites(linear_maps(model, "blocks"))
    method.attach(model, places, [], method.plan(T, places), seed=seed)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    method.begin_step(step, 0.0)
    return model.train()


def inputs(seed: int = 1, rows: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@contextmanager
def lean(method: Lora | Dora, dtype: torch.dtype | None = None) -> Iterator[None]:
    with method.training_pass(dtype), torch.autocast("cpu", dtype, enabled=dtype is not None):
        yield


# -- how large ---------------------------------------------------------------------------------------------------------


def test_the_ramp_is_half_a_cosine() -> None:
    assert [ramp(step, 4) for step in range(5)] == pytest.approx(
        [0, (1 - math.sqrt(0.5)) / 2, 0.5, 0.8535533905932737, 1]
    )
    assert ramp(5, 4) == 1


@pytest.mark.parametrize("base", [nn.Linear(12, 7), Conv1D(7, 12)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)], ids=str
)
def test_deviations_are_row_norms_of_the_explicit_weight(base: nn.Module, dtype: torch.dtype, tolerance: float) -> None:
    layer = noisy_layer(copy.deepcopy(base).to(dtype))
    with torch.no_grad():
        whole = weight_of(layer.base).double() + layer.delta(torch.float64)
    expected = 0.5 * ramp(13, T) * whole.norm(dim=1) / math.sqrt(12)
    assert layer.noise is not None
    torch.testing.assert_close(layer.noise.deviations(layer).double(), expected, rtol=tolerance, atol=0)
    with torch.no_grad():
        layer.base.weight.mul_(3)
        whole = weight_of(layer.base).double() + layer.delta(torch.float64)
    expected = 0.5 * ramp(13, T) * whole.norm(dim=1) / math.sqrt(12)
    with torch.autocast("cpu", torch.bfloat16):  # which is for activations
        torch.testing.assert_close(layer.noise.deviations(layer).double(), expected, rtol=tolerance, atol=0)


def test_the_output_varies_as_predicted() -> None:
    """With independent inputs of variance 1, row `i` of an output varies by ``||W'_i||^2``, with noise by ``1 + sigma^2
    f^2`` times that, whatever `d_in`. Over 500 rows of 400 the ratio has an error of ``2 sigma f / sqrt(200,000)`` from
    the cross term, and a smaller one from the noise's own square: 0.3 % at most.
    """
    torch.manual_seed(0)
    layer = noisy_layer(nn.Linear(400, 500), sigma=0.6)
    with torch.no_grad():
        variance = ((weight_of(layer.base) + layer.delta(torch.float32)) ** 2).sum(1)
        one = torch.eye(400)
        whole = (layer.train()(one) - layer.base.bias).T
    ratio = float(((whole**2).sum(1) / variance).mean())
    assert ratio == pytest.approx(1 + (0.6 * ramp(13, T)) ** 2, rel=0.01)


# -- where from --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_in", [600, 601])
def test_hashed_normals_are_normal_and_independent(d_in: int) -> None:
    """300,000 of them: means within 4 / sqrt(n), fourth moments within 4 sqrt(96 / n)."""

    def draw(number: int, step: int) -> torch.Tensor:
        return hashed_normals(range(500), d_in, *key(words(5), number, step), torch.float64, "cpu")

    z = draw(1, 2)
    assert z.shape == (500, d_in)
    within = 4 / math.sqrt(z.numel())
    for moment, expected, spread in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
        assert float((z**moment).mean()) == pytest.approx(expected, abs=within * spread)
    half = (d_in + 1) // 2
    others = {
        "the next column": z.roll(1, 1),
        "the next row": z.roll(1, 0),
        "its pair": torch.cat([z[:, half:], z[:, : d_in - (d_in - half)]], 1)[:, :d_in],
        "the next step": draw(1, 3),
        "the next projection": draw(2, 2),
        "step and projection exchanged": draw(2, 1),
        "another seed": hashed_normals(range(500), d_in, *key(words(6), 1, 2), torch.float64, "cpu"),
        "a seed of other high bits": hashed_normals(
            range(500), d_in, *key(words(5 + 2**32), 1, 2), torch.float64, "cpu"
        ),
    }
    for name, other in others.items():
        assert abs(float((z * other).mean())) < within, name
        assert abs(float((z**2 * other**2).mean()) - 1) < 3 * within, name


def test_some_rows_are_those_of_all_and_no_counter_comes_twice() -> None:
    first, second = key(words(5), 1, 2)
    whole = hashed_normals(range(40), 7, first, second, torch.float32, "cpu")
    part = hashed_normals(range(11, 29), 7, torch.tensor(first), torch.tensor(second), torch.float32, "cpu")
    assert torch.equal(part, whole[11:29])
    assert len(whole.unique()) == whole.numel()


# -- how often ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_step_has_one_noise(dtype: torch.dtype | None) -> None:
    """For all tokens, micro-batches and processes, which have seed and step in common; another step has another."""
    methods = [new_lora(dropout=0.0, flatness=0.3) for _ in range(2)]
    one, other = (attached(method, small_encoder(dtype=torch.float32)) for method in methods)
    x = inputs(dtype=torch.float32)

    def answer(method: Lora | Dora, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with lean(method, dtype):
            return model(x).detach().clone()

    found = answer(methods[0], one, x)
    answer(methods[0], one, inputs(2, dtype=torch.float32))
    assert torch.equal(answer(methods[0], one, x), found)
    assert torch.equal(answer(methods[1], other, x), found)
    torch.testing.assert_close(answer(methods[0], one, x[2:4]), found[2:4])  # token by token
    methods[0].begin_step(14, 0.0)
    assert not torch.allclose(answer(methods[0], one, x), found, atol=1e-2)
    methods[0].begin_step(13, 0.0)
    assert torch.equal(answer(methods[0], one, x), found)


def test_projections_have_noise_of_their_own() -> None:
    """Even of equal weights; those of another number or another seed."""
    torch.manual_seed(0)
    base = nn.Linear(30, 30).double()
    torch.manual_seed(1)
    layers = [noisy_layer(copy.deepcopy(base), number=number) for number in (4, 5)]
    with torch.no_grad():
        for name, factor in layers[0].factors().items():
            getattr(layers[1], name).copy_(factor)
    one, other = (noise_of(layer) for layer in layers)
    assert abs(float((one * other).sum() / one.norm() / other.norm())) < 4 / 30


# -- forward and backward ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [new_lora, new_dora])
@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [
        (torch.float64, None, 1e-12),
        (torch.float32, None, 1e-5),
        (torch.float32, torch.bfloat16, 0.1),
        (torch.bfloat16, torch.bfloat16, 0.1),
    ],
    ids=["float64", "fp32", "bf16 autocast", "bf16 base and autocast"],
)
def test_lean_and_plain_passes_have_the_same_noise(
    new: Callable[..., Lora | Dora], dtype: torch.dtype, precision: torch.dtype | None, tolerance: float
) -> None:
    """Outputs, gradients of the input and of factors; the plain pass under checkpointing too."""
    method = new(dropout=0.0, flatness=0.3, rank=3)
    model = attached(method, small_encoder(dtype=dtype))
    for norm in (block.norm for block in model.blocks):
        norm.to(torch.promote_types(dtype, torch.float32))
    model.head.to(torch.promote_types(dtype, torch.float32))

    def results(way: str) -> list[torch.Tensor]:
        x = inputs(dtype=torch.promote_types(dtype, torch.float32)).requires_grad_()
        for parameter in method.parameters():
            parameter.grad = None
        within = method.training_pass(precision) if way == "lean" else torch.enable_grad()
        with within, torch.autocast("cpu", precision, enabled=precision is not None):
            y = checkpoint(model, x, use_reentrant=False) if way == "checkpointed" else model(x)
            (y.float() ** 2).sum().backward()
        return [y.detach(), x.grad, *(parameter.grad.clone() for parameter in method.parameters())]

    plain = results("plain")
    for way in ("checkpointed", "lean", "lean"):
        for found, expected in zip(results(way), plain, strict=True):
            assert distance(found, expected) < tolerance
    method.begin_step(0, 0.0)  # whose ramp is zero
    for found, expected in zip(results("plain")[:2], plain, strict=False):
        assert distance(found, expected) > max(0.1, 2 * tolerance), "the noise reaches output and gradient"


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of all entries together."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_a_base_that_trains_is_trained_under_the_noise() -> None:
    layer = noisy_layer(nn.Linear(5, 4).double())
    for parameter in layer.base.parameters():
        parameter.requires_grad_(False)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    (wanted,) = torch.autograd.grad(expected.sum(), x)
    layer.base.requires_grad_(True)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sum(), [x, layer.base.weight, layer.base.bias])
    torch.testing.assert_close(gradients[0], wanted)
    torch.testing.assert_close(gradients[1], x.detach().sum(0).expand(4, 5))
    torch.testing.assert_close(gradients[2], torch.full((4,), 6.0, dtype=torch.float64))


# -- nothing is left of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, None), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
    ids=["fp32", "bf16 autocast", "bf16 base"],
)
def test_base_weights_keep_their_bytes_and_evaluations_are_quiet(
    dtype: torch.dtype, precision: torch.dtype | None
) -> None:
    model = small_encoder(dtype=dtype)
    before = {name: maps.weight.detach().clone() for name, maps in linear_maps(model, "blocks").items()}
    quiet = attached(new_lora(dropout=0.0), copy.deepcopy(model)).eval()
    method = new_lora(dropout=0.0, flatness=0.3)
    noisy = attached(method, model)
    x = inputs(dtype=dtype)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        clean = quiet(x).detach()
    for step in (1, 20):
        method.begin_step(step, 0.0)
        noisy.train()
        with lean(method, precision):
            noisy(x).float().sum().backward()
        noisy.eval()
        with torch.autocast("cpu", precision, enabled=precision is not None):
            assert torch.equal(noisy(x), clean)
            with method.folded():
                torch.testing.assert_close(noisy(x), clean, rtol=5e-2, atol=5e-2)
        with lean(method, precision):  # a training pass over a model in evaluation mode
            torch.testing.assert_close(noisy(x).detach(), clean, rtol=3e-2, atol=3e-2)
    for name, weight in before.items():
        assert torch.equal(model.get_submodule(name).base.weight.view(torch.uint8), weight.view(torch.uint8))


def test_in_its_own_precision_no_weight_is_stored_twice() -> None:
    """What a pass keeps is one room, of the largest weight's size."""
    method = new_lora(dropout=0.0, flatness=0.3)
    model = attached(method, small_encoder(dtype=torch.float32))
    with method.training_pass():
        model(inputs(dtype=torch.float32)).sum().backward()
        reads = [layer.lean for layer in model.modules() if isinstance(layer, AdaptedProjection)]
        assert len({read.present().data_ptr() for read in reads}) == 1
        for read in reads:
            assert read.weight.data_ptr() == read.layer.base.weight.data_ptr()


@pytest.mark.parametrize("new", [new_lora, new_dora])
def test_zero_is_off_and_so_is_evaluation_alone(new: Callable[..., Lora | Dora]) -> None:
    """No layer carries noise, so what is computed is what was before there was such an option."""
    model = attached(new(flatness=0.0, rank=3), small_encoder(dtype=torch.float32))
    assert all(layer.noise is None for layer in model.modules() if isinstance(layer, AdaptedProjection))
    evaluated = new(flatness=0.3, rank=3)
    other = small_encoder(dtype=torch.float32).requires_grad_(False)
    evaluated.attach(other, sites(linear_maps(other, "blocks")), [])  # without a schedule: for evaluation alone
    assert all(layer.noise is None for layer in other.modules() if isinstance(layer, AdaptedProjection))


def test_the_noise_takes_no_number_from_other_draws() -> None:
    """Neither the global generator's nor the method's."""
    states = []
    for flatness in (0.0, 0.3):
        method = new_lora(dropout=0.0, flatness=flatness)
        model = attached(method, small_encoder(dtype=torch.float32))
        torch.manual_seed(5)
        with lean(method):
            model(inputs(dtype=torch.float32)).sum().backward()
        model(inputs(dtype=torch.float32))
        states.append((torch.get_rng_state(), method.generator.get_state()))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


# -- models that move, ranks that shrink -------------------------------------------------------------------------------


def test_a_copy_of_a_model_has_the_noise_of_the_original_and_goes_its_own_way() -> None:
    method = new_dora(dropout=0.0, flatness=0.3, rank=3)
    model = attached(method, small_encoder(dtype=torch.float32))
    x = inputs(dtype=torch.float32)
    with lean(method):
        expected = model(x).detach().clone()
    twin, its = copy.deepcopy((model, method))
    with lean(its):
        assert torch.equal(twin(x), expected)
    its.begin_step(14, 0.0)
    torch.testing.assert_close(model(x), expected)
    assert not torch.allclose(twin(x), expected, atol=1e-2)
    wide = model.double()
    plain = wide(x.double())
    with lean(method):
        torch.testing.assert_close(wide(x.double()), plain)


def test_a_projection_without_components_is_left_alone() -> None:
    """By LoRA's rank 0 from the start; numbers of the others are still those of the model's order."""
    names = list(linear_maps(small_encoder(), "blocks"))
    method = new_lora(dropout=0.0, flatness=0.3, ranks={names[0]: 0})
    model = attached(method, small_encoder(dtype=torch.float32))
    assert isinstance(model.get_submodule(names[0]), nn.Linear)
    noises = [model.get_submodule(name).noise.number for name in names[1:]]
    assert noises == list(range(1, len(names)))
