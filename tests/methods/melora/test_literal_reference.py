"""MELoRA written a second time, plainly, and ours trained beside it in float64.

The reference shares no code with the package: every mini is a pair of parameters of its own, their products stand as
blocks in one matrix that is added to the weight, and autograd does the rest.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Melora
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import SmallEncoder, linear_maps, sites

STEPS, RANK, MINIS, ALPHA = 40, 2, 3, 16.0
RATE, DECAY, WARMUP, CLIP = 1e-2, 0.1, 8, 0.5


def small() -> SmallEncoder:
    torch.manual_seed(0)
    return SmallEncoder(d=12, h=18, blocks=1).double().requires_grad_(False)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(17)
    return [
        (torch.randn(8, 12, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(24)
    ]


class LiteralProjection(nn.Module):
    """``y = (W0 + alpha / r blockdiag(B_i A_i)) x + b``."""

    def __init__(self, base: nn.Module, A: torch.Tensor) -> None:
        super().__init__()
        weight = base.weight.detach().clone()
        self.register_buffer("W0", weight if isinstance(base, nn.Linear) else weight.T)
        self.register_buffer("bias0", torch.zeros(1) if base.bias is None else base.bias.detach().clone())
        width = len(self.W0) // MINIS
        self.A = nn.ParameterList(part.clone() for part in A.split(RANK))
        self.B = nn.ParameterList(torch.zeros(width, RANK, dtype=torch.float64) for _ in range(MINIS))

    def update(self) -> torch.Tensor:
        return ALPHA / RANK * torch.block_diag(*(B @ A for A, B in zip(self.A, self.B, strict=True)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.W0 + self.update()).T + self.bias0


def train_literally(start: dict[str, torch.Tensor]) -> tuple[dict[str, LiteralProjection], list[nn.Parameter], list]:
    model, data, losses = small(), batches(), []
    layers = {
        key.removesuffix(".A"): LiteralProjection(model.get_submodule(key.removesuffix(".A")), A)
        for key, A in start.items()
        if key.endswith(".A")
    }
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    head = [parameter.requires_grad_() for name, parameter in model.named_parameters() if name.startswith("head")]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    for step in range(STEPS):
        x, labels = data[(step + 1) % len(data)]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in trained))
        for parameter in trained:
            parameter.grad *= min(1.0, CLIP / (float(norm) + 1e-6))
        optimizer.param_groups[0]["lr"] = RATE * min(step / WARMUP, (STEPS - step) / (STEPS - WARMUP))
        optimizer.step()
        losses.append(float(loss.detach()))
    return layers, head, losses


def test_all_steps_are_those_of_the_block_diagonal_matrices() -> None:
    model, data = small(), batches()
    places = sites(linear_maps(model, "blocks"))
    head = list(model.head.requires_grad_().parameters())
    method = Melora(rank=RANK, minis=MINIS, alpha=ALPHA, dropout=0.0)
    method.attach(model, places, head, method.plan(STEPS, places), seed=3)
    layers, literal_head, losses = train_literally({k: v.clone() for k, v in method.state_dict().items()})
    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=STEPS),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    found = []
    for number in range(1, STEPS + 1):
        x, labels = data[number % len(data)]
        step(number, [{"x": x[part], "labels": labels[part]} for part in (slice(0, 5), slice(5, 8))], 8, event=False)
        found.append(step.read(number).loss)
    assert found == pytest.approx(losses, rel=0, abs=1e-9)
    state, factors = method.state_dict(), method.to_lora()
    for site in places:
        layer = layers[site.name]
        torch.testing.assert_close(state[f"{site.name}.A"], torch.cat(list(layer.A)), rtol=0, atol=1e-9)
        torch.testing.assert_close(state[f"{site.name}.B"], torch.cat(list(layer.B), 1), rtol=0, atol=1e-9)
        update = layer.update().detach()
        torch.testing.assert_close(method.delta(site, torch.float64), update, rtol=0, atol=1e-9)
        one = factors[site.name]
        torch.testing.assert_close((one.B @ one.A).double(), update, rtol=1e-5, atol=1e-6)
        assert int(torch.linalg.matrix_rank(update)) == MINIS * RANK, "the rank that as many numbers buy"
    for one, two in zip(head, literal_head, strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=0, atol=1e-9)
