"""Noise in Triton against plain tensor operations: on a GPU, or anywhere in Triton's interpreter
(``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.noise.flatness import Flatness, Noise, hashed_normals, key, ramp
from tests.methods.small import gated, linear_maps, new_dora, new_lora, sites, small_encoder

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED:
    pytestmark = pytest.mark.gpu
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
SEED, STEP, T, SIGMA = 2**40 + 3, 13, 20, 0.5

bases = pytest.mark.parametrize(
    "make", [lambda: nn.Linear(70, 37), lambda: Conv1D(37, 71), lambda: nn.Linear(300, 40)], ids=["70", "71^T", "300"]
)
types = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)


@pytest.fixture
def flatness() -> Flatness:
    pytest.importorskip("triton")
    made = Flatness(SIGMA, total_steps=T, seed=SEED)
    made.begin_step(1)
    made.clock(DEVICE)
    made.scale_on(DEVICE)
    made.begin_step(STEP)  # reaches what is on the device
    return made


def layer_on(base: nn.Module, flatness: Flatness, *, number: int = 5, rank: int = 3) -> AdaptedProjection:
    layer = gated(base.to(DEVICE), rank=rank, scaling=2.0, dropout=0.0)
    with torch.no_grad():
        for parameter in (layer.A, layer.B, layer.gates):
            parameter.copy_(torch.randn(parameter.shape))
    layer.noise = Noise(flatness, number)
    return layer


def deviations_of(layer: AdaptedProjection) -> torch.Tensor:
    """From the explicit weight."""
    whole = weight_of(layer.base).double() + layer.delta(torch.float64)
    return SIGMA * ramp(STEP, T) * whole.norm(dim=1) / layer.in_features**0.5


def perturbed(layer: AdaptedProjection, flatness: Flatness) -> torch.Tensor:
    """Exactly, of the same hashes."""
    assert layer.noise is not None
    words = key(flatness.words, layer.noise.number, STEP)
    z = hashed_normals(range(layer.out_features), layer.in_features, *words, torch.float64, DEVICE)
    return weight_of(layer.base).double() + deviations_of(layer)[:, None] * z


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    limit = 2e-5 if found.dtype == torch.float32 else 2e-3
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=limit * float(expected.abs().max()))


@bases
@types
@pytest.mark.parametrize("rank", [1, 20])
@torch.no_grad()
def test_one_projection(make, dtype: torch.dtype, rank: int, flatness: Flatness) -> None:  # type: ignore[no-untyped-def]
    from dora_cli.methods.low_rank.noise.triton_flatness import deviations, perturb

    layer = layer_on(make().to(dtype), flatness, rank=rank)
    weight = weight_of(layer.base).detach()
    found = deviations(layer, weight, flatness.scale_on(DEVICE), torch.empty(len(weight), device=DEVICE))
    close(found, deviations_of(layer))
    for out in (torch.empty_like(weight, dtype=torch.float32), torch.empty(weight.shape, device=DEVICE).half()):
        close(perturb(weight, found, flatness.clock(DEVICE), 5, out), perturbed(layer, flatness))


@torch.no_grad()
def test_many_projections_at_once(flatness: Flatness) -> None:
    """They have several shapes, ranks and storages; one is without a copy, whose weight is not drawn."""
    from dora_cli.methods.low_rank.noise.triton_flatness import ManyDraws

    modules = [nn.Linear(70, 37), Conv1D(37, 70), nn.Linear(70, 37), nn.Linear(37, 70, bias=False), nn.Linear(70, 37)]
    ranks = [3, 3, 1, 20, 2]
    layers = [
        layer_on(module, flatness, number=number, rank=rank)
        for number, (module, rank) in enumerate(zip(modules, ranks, strict=True))
    ]
    weights = [weight_of(layer.base).detach() for layer in layers]
    copies = [weight.to(torch.float16) for weight in weights[:4]]
    draws = ManyDraws(layers, [*copies, None])
    draws.draw()
    for layer, deviations in zip(layers, draws.deviations, strict=True):
        close(deviations, deviations_of(layer))
    for layer, copy in zip(layers, copies, strict=False):
        close(copy, perturbed(layer, flatness))


@pytest.mark.parametrize("triton", [True, False], ids=["triton", "plain operations"])
@pytest.mark.parametrize(
    "precision",
    [
        None,
        pytest.param(torch.bfloat16, marks=pytest.mark.skipif(INTERPRETED, reason="the interpreter takes no bf16")),
        torch.float16,
    ],
    ids=str,
)
@pytest.mark.parametrize("new", [new_lora, new_dora])
def test_passes(new, precision, triton: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Lean and plain, with the same noise, which is that of the hashes; the base's bytes stay; a captured pass draws
    what the step asks for.
    """
    pytest.importorskip("triton")
    monkeypatch.setattr("dora_cli.methods.low_rank.noise.flatness.takes_triton", lambda device: triton)
    for room in ("noise.flatness", "lean.lean_pass"):
        monkeypatch.setattr(f"dora_cli.methods.low_rank.{room}.draws_on_host", lambda device: False)
    model = small_encoder(dtype=torch.float32).to(DEVICE).requires_grad_(False)
    before = {name: module.weight.clone() for name, module in linear_maps(model, "blocks").items()}
    method = new(dropout=0.0, flatness=SIGMA, rank=3)
    places = sites(linear_maps(model, "blocks"))
    method.attach(model, places, [], method.plan(T, places), seed=SEED)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(DEVICE) * 0.3)
    model.train()
    x = torch.randn(6, 10, generator=generator).to(DEVICE).requires_grad_()
    x.grad = torch.zeros_like(x)

    def once(way: str) -> torch.Tensor:
        with method.training_pass(precision) if way == "lean" else torch.enable_grad():
            with torch.autocast(DEVICE.type, precision, enabled=precision is not None, cache_enabled=False):
                y = model(x)
            (y.float() ** 2).sum().backward()
        return y

    def both(way: str, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        method.begin_step(step, 0.0)
        x.grad.zero_()
        return once(way).detach().clone(), x.grad.clone()

    limit = {None: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.1}[precision]

    def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
        return all(float((a - b).norm() / b.norm()) < limit for a, b in zip(one, other, strict=True))

    layer = model.get_submodule(places[0].name)
    method.begin_step(STEP, 0.0)
    one = torch.eye(layer.in_features, device=DEVICE)
    with torch.no_grad():
        noise = (layer(one) - layer.eval()(one)).T.double()
    layer.train()
    expected = perturbed(layer, layer.noise.flatness) - weight_of(layer.base).double()
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-5)

    plain = {step: both("plain", step) for step in (13, 20)}
    assert not same(plain[13], plain[20])
    for step in (13, 20, 20):
        assert same(both("lean", step), plain[step])
    if not INTERPRETED:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            both("lean", 13)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = once("lean")
        for step in (20, 13):
            method.begin_step(step, 0.0)
            x.grad.zero_()
            graph.replay()
            assert same((y, x.grad), plain[step])
    for name, weight in before.items():
        assert torch.equal(model.get_submodule(name).base.weight, weight)
