"""The algorithm written a second time, plainly, and LoRA-Pro trained beside it in float64, in both modes.

The Riemannian gradients too.

The reference below shares no code with the package: one projection at a time, explicit matrices, inverses and
Kronecker products, AdamW by its formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Lora
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import SmallEncoder, linear_maps, new_lora, sites

STEPS, ALPHA, RANK, RANKS = 40, 6.0, 3, {"down": 2, "up": 0}
RATE, DECAY, WARMUP, CLIP = 1e-2, 0.1, 7, 0.5
BETAS, EPS = (0.9, 0.999), 1e-8
Mode = Literal["low-rank", "full", "riemannian"]
MODES = pytest.mark.parametrize("mode", ["low-rank", "full", "riemannian"])
DAMPING = {"low-rank": 1e-4, "full": 1e-4, "riemannian": 1e-2}


def small() -> SmallEncoder:
    torch.manual_seed(0)
    return SmallEncoder(blocks=2).double()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(17)
    return [
        (torch.randn(8, 10, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(24)
    ]


class LiteralProjection(nn.Module):
    """One adapted linear layer."""

    def __init__(self, base: nn.Module, A: torch.Tensor) -> None:
        super().__init__()
        weight = base.weight.detach()
        self.W = weight if isinstance(base, nn.Linear) else weight.T
        self.b = 0.0 if base.bias is None else base.bias.detach()
        self.s = ALPHA / len(A)
        self.A, self.B = nn.Parameter(A.clone()), nn.Parameter(torch.zeros(len(self.W), len(A)).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.W + self.s * self.B @ self.A).T + self.b


def sylvester(G: torch.Tensor, H: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """``G X + X H = Q``, as one linear system."""
    identity = torch.eye(len(G), dtype=G.dtype)
    system = torch.kron(G, identity) + torch.kron(identity, H.T.contiguous())
    return torch.linalg.solve(system, Q.flatten()).reshape(Q.shape)


def adjusted(
    s: float, A: torch.Tensor, B: torch.Tensor, hA: torch.Tensor, hB: torch.Tensor, d: float, *, with_X: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    damped = d * torch.eye(len(A), dtype=A.dtype)
    G_B, G_A = B.T @ B + damped, A @ A.T + damped
    inv_B, inv_A = torch.linalg.inv(G_B), torch.linalg.inv(G_A)
    X = sylvester(G_B, G_A, -inv_B @ hA @ A.T / s**2) if with_X else torch.zeros_like(G_A)
    outside = torch.eye(len(B), dtype=A.dtype) - B @ inv_B @ B.T
    return inv_B @ hA / s**2 + X @ A, outside @ hB @ inv_A / s**2 - B @ X


@dataclass
class Adam:
    """Moments of one tensor."""

    m: torch.Tensor | float = 0.0
    v: torch.Tensor | float = 0.0
    t: int = 0

    def direction(self, g: torch.Tensor) -> torch.Tensor:
        self.t += 1
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * g
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * g**2
        return (self.m / (1 - BETAS[0] ** self.t)) / ((self.v / (1 - BETAS[1] ** self.t)) ** 0.5 + EPS)


@dataclass
class Trace:
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    head: list[torch.Tensor] = field(default_factory=list)


def rate_at(done: int) -> float:
    return RATE * (done / WARMUP if done < WARMUP else (STEPS - done) / (STEPS - WARMUP))


def train_literally(mode: Mode, start: dict[str, torch.Tensor]) -> Trace:
    model, data, trace, d = small(), batches(), Trace(), DAMPING[mode]
    layers = {name: LiteralProjection(model.get_submodule(name), A) for name, A in start.items()}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.requires_grad_(False)
    head = [parameter.requires_grad_() for name, parameter in model.named_parameters() if name.startswith("head")]
    factors = [factor.requires_grad_() for layer in layers.values() for factor in (layer.A, layer.B)]
    states = {id(parameter): Adam() for parameter in [*factors, *head]}
    whole = {name: Adam() for name in layers}
    for step in range(STEPS):
        x, labels = data[(step + 1) % len(data)]
        loss = F.cross_entropy(model(x), labels)
        for parameter in [*factors, *head]:
            parameter.grad = None
        loss.backward()
        with torch.no_grad():
            for layer in layers.values():
                if mode == "low-rank":
                    layer.A.grad, layer.B.grad = adjusted(layer.s, layer.A, layer.B, layer.A.grad, layer.B.grad, d)
                if mode == "riemannian":
                    damped = d * torch.eye(len(layer.A)).double()
                    hA = torch.linalg.inv(layer.B.T @ layer.B + damped) @ layer.A.grad
                    hB = layer.B.grad @ torch.linalg.inv(layer.A @ layer.A.T + damped)
                    layer.A.grad, layer.B.grad = hA, hB
            norm = float(sum((parameter.grad**2).sum() for parameter in [*factors, *head]) ** 0.5)
            for parameter in [*factors, *head]:
                parameter.grad *= min(1.0, CLIP / (norm + 1e-6))
            rate = rate_at(step)
            for name, layer in layers.items():
                if mode != "full":
                    continue
                gA, gB = adjusted(layer.s, layer.A, layer.B, layer.A.grad, layer.B.grad, d, with_X=False)
                g = whole[name].direction(layer.s * layer.B @ gA + layer.s * gB @ layer.A)
                gA, gB = adjusted(layer.s, layer.A, layer.B, layer.s * layer.B.T @ g, layer.s * g @ layer.A.T, d)
                layer.A -= rate * DECAY * layer.A + rate * gA
                layer.B -= rate * DECAY * layer.B + rate * gB
            for parameter in head if mode == "full" else [*factors, *head]:
                direction = states[id(parameter)].direction(parameter.grad)
                parameter -= rate * DECAY * parameter + rate * direction
        trace.losses.append(float(loss.detach()))
        trace.norms.append(norm)
    trace.factors = {name: (layer.A.detach(), layer.B.detach()) for name, layer in layers.items()}
    trace.head = [parameter.detach() for parameter in head]
    return trace


def keys(mode: Mode) -> dict[str, Any]:
    settings = {"low-rank": ("pro", "low-rank"), "full": ("pro", "full"), "riemannian": ("riemannian", "low-rank")}
    gradients, moments = settings[mode]
    return {"gradients": gradients, "moments": moments, "damping": DAMPING[mode]}


def attached(mode: Mode) -> tuple[nn.Module, Lora]:
    model = small().requires_grad_(False)
    method = new_lora(rank=RANK, ranks=RANKS, alpha=ALPHA, dropout=0.0, **keys(mode))
    places = sites(linear_maps(model, "blocks"))
    head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith("head")]
    method.attach(model, places, head, method.plan(STEPS, places), seed=1)
    return model, method


@MODES
def test_training_is_the_literal_algorithm(mode: Mode) -> None:
    """Under the product's own step, projections of two ranks and one left as it is."""
    model, method = attached(mode)
    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=BETAS, eps=EPS)
    run_step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=STEPS),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    start = {key[:-2]: value.clone() for key, value in method.state_dict().items() if key.endswith(".A")}
    data, readings = batches(), []
    for step in range(1, STEPS + 1):
        x, labels = data[step % len(data)]
        run_step(step, [{"x": x, "labels": labels}], 8, event=False)
        readings.append(run_step.read(step))
    expected = train_literally(mode, start)

    assert [reading.loss for reading in readings] == pytest.approx(expected.losses, rel=0, abs=1e-9)
    assert [reading.grad_norm for reading in readings] == pytest.approx(expected.norms, rel=1e-9)
    state = method.state_dict()
    for name, (A, B) in expected.factors.items():
        torch.testing.assert_close(state[f"{name}.A"], A, rtol=0, atol=1e-9)
        torch.testing.assert_close(state[f"{name}.B"], B, rtol=0, atol=1e-9)
        assert float((B @ A).norm()) > 1e-2, "what is compared is much larger than the tolerance"
    for head, wanted in zip(method.head, expected.head, strict=True):
        torch.testing.assert_close(head.detach(), wanted, rtol=0, atol=1e-9)
    assert sum(norm > CLIP for norm in expected.norms) > 10, "clipping is at work"
    assert sum(expected.losses[-24:]) < sum(expected.losses[:24]), "the same batches"
