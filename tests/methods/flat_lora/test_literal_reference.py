"""Flat-LoRA written a second time, plainly, and ours trained beside it in float64.

The reference shares no code with the package: noise matrices are added to the frozen weights before a step's first
micro-batch and taken away after its last, and autograd does the rest. Only where the numbers come from is ours, and
written down once more here.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import FlatLora
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.flat_lora import FlatLoraMethod
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import SmallEncoder, linear_maps, sites, small_encoder

STEPS, RANK, ALPHA, SIGMA, SEED = 50, 3, 6.0, 0.4, 2**40 + 3
RATE, DECAY, WARMUP, CLIP = 1e-2, 0.1, 8, 0.5


def batches() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Two micro-batches of 5 and 3 for each step."""
    generator = torch.Generator().manual_seed(17)
    return [
        [
            (torch.randn(n, 10, generator=generator, dtype=torch.float64), torch.randint(3, (n,), generator=generator))
            for n in (5, 3)
        ]
        for _ in range(24)
    ]


def mixed(word: int) -> int:
    word = (word ^ (word >> 16)) * 0x21F0AAAD % 2**32
    word = (word ^ (word >> 15)) * 0x735A2D97 % 2**32
    return word ^ (word >> 15)


def standard_normals(shape: tuple[int, int], number: int, step: int) -> torch.Tensor:
    low, high = SEED % 2**32, SEED >> 32
    words = mixed(low), mixed((high + mixed((low + 0x9E3779B9) % 2**32)) % 2**32)
    first, second = (mixed((mixed((word + step) % 2**32) + number) % 2**32) for word in words)
    return torch.randn(shape, generator=torch.Generator().manual_seed(second * 2**32 + first), dtype=torch.float64)


class LiteralProjection(nn.Module):
    """``y = (W0 + alpha / r B A) x + b``, and noise that comes and goes."""

    def __init__(self, base: nn.Module, A: torch.Tensor) -> None:
        super().__init__()
        weight = base.weight.detach().clone()
        self.W0 = weight if isinstance(base, nn.Linear) else weight.T
        self.clean = self.W0
        self.bias0 = torch.zeros(1) if base.bias is None else base.bias.detach().clone()
        self.A = nn.Parameter(A.clone())
        self.B = nn.Parameter(torch.zeros(len(self.W0), RANK, dtype=torch.float64))

    def add_noise(self, number: int, step: int) -> None:
        whole = self.clean + ALPHA / RANK * (self.B @ self.A).detach()
        ramp = (1 - math.cos(math.pi * step / STEPS)) / 2
        deviation = ramp * SIGMA * whole.norm(dim=1, keepdim=True) / math.sqrt(whole.shape[1])
        self.W0 = self.clean + deviation * standard_normals(tuple(whole.shape), number, step)

    def remove_noise(self) -> None:
        self.W0 = self.clean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.W0 + ALPHA / RANK * self.B @ self.A).T + self.bias0


def train_literally(start: dict[str, torch.Tensor]) -> tuple[dict[str, LiteralProjection], SmallEncoder, list[float]]:
    model, data, losses = small_encoder().requires_grad_(False), batches(), []
    names = [key.removesuffix(".A") for key in start if key.endswith(".A")]
    layers = {name: LiteralProjection(model.get_submodule(name), start[f"{name}.A"]) for name in names}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.head.requires_grad_()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        for number, layer in enumerate(layers.values()):
            layer.add_noise(number, step)
        loss = 0.0
        for x, labels in data[step % len(data)]:
            part = F.cross_entropy(model(x), labels, reduction="sum") / 8
            part.backward()
            loss += float(part.detach())
        for layer in layers.values():
            layer.remove_noise()
        norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in trained))
        for parameter in trained:
            parameter.grad *= min(1.0, CLIP / (float(norm) + 1e-6))
        optimizer.param_groups[0]["lr"] = RATE * min((step - 1) / WARMUP, (STEPS - step + 1) / (STEPS - WARMUP))
        optimizer.step()
        losses.append(loss)
    return layers, model, losses


@pytest.mark.parametrize("by_autograd", [False, True], ids=["lean pass", "plain pass"])
def test_all_steps_are_those_of_explicit_noise_matrices(by_autograd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = small_encoder().requires_grad_(False), batches()
    places = sites(linear_maps(model, "blocks"))
    bases = {site.name: site.module.weight.detach().numpy().tobytes() for site in places}
    head = list(model.head.requires_grad_().parameters())
    keys = FlatLoraMethod(rank=RANK, alpha=ALPHA, dropout=0.0, flatness=SIGMA)
    method = FlatLora(**arguments(keys))
    method.attach(model, places, head, method.plan(STEPS, places), seed=SEED)
    if by_autograd:
        monkeypatch.setattr(method, "training_pass", lambda *_: torch.enable_grad())
    layers, literal, losses = train_literally({k: v.clone() for k, v in method.state_dict().items()})
    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    step = TrainingStep(
        model=model.train(),
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=STEPS),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    found = []
    for number in range(1, STEPS + 1):
        micro_batches = [{"x": x, "labels": labels} for x, labels in data[number % len(data)]]
        step(number, micro_batches, 8, event=False)
        found.append(step.read(number).loss)
    assert found == pytest.approx(losses, rel=0, abs=1e-9)
    state = method.state_dict()
    for site in places:
        layer = layers[site.name]
        assert layer.B.detach().abs().max() > 0.05, "hardly anything was learned: a test of nothing"
        torch.testing.assert_close(state[f"{site.name}.A"], layer.A.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(state[f"{site.name}.B"], layer.B.detach(), rtol=0, atol=1e-9)
        assert site.module.weight.detach().numpy().tobytes() == bases[site.name]
    for one, two in zip(head, literal.head.parameters(), strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=0, atol=1e-9)
    x = data[0][0][0]
    torch.testing.assert_close(model.eval()(x), literal(x), rtol=0, atol=1e-8)
