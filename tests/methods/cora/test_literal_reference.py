"""CoRA written a second time, plainly, and ours trained beside it in float64.

The reference shares no code with the package: the matrices stand side by side as one, `torch.linalg.svd` takes it
apart, explicit products and autograd do the rest.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.cora.places import attached, cora, encoder
from tests.methods.small import SmallEncoder

STEPS, RANK, ALPHA = 40, 3, 12.0
RATE, DECAY, WARMUP, CLIP = 1e-2, 0.1, 8, 0.5


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(17)
    return [
        (torch.randn(8, 10, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(24)
    ]


def matrix(module: nn.Module) -> torch.Tensor:
    return module.weight if isinstance(module, nn.Linear) else module.weight.T  # type: ignore[union-attr, return-value]


def names(model: SmallEncoder) -> list[str]:
    return [f"blocks.{block}.{part}" for block in range(len(model.blocks)) for part in ("att", "up", "down")]


def literal_bases(base: SmallEncoder, others: list[SmallEncoder], options: dict[str, Any]) -> dict[str, torch.Tensor]:
    side_by_side: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name in names(base):
        W0 = matrix(base.get_submodule(name))
        theirs = [matrix(other.get_submodule(name)) for other in others]
        found = [W - W0 for W in theirs] if options["aggregate"] == "differences" else [W0, *theirs]
        key = name if options["common_to"] == "projection" else name.rpartition(".")[2]
        side_by_side[key] += [M / M.norm() for M in found] if options["normalise"] else found
    bases = {}
    for key, matrices in side_by_side.items():
        M = torch.cat(matrices, 1)
        if options["center"]:
            M = M - M.mean(1, keepdim=True)
        U = torch.linalg.svd(M, full_matrices=False).U[:, :RANK]
        for j in range(RANK):
            if U[U[:, j].abs().argmax(), j] < 0:
                U[:, j] = -U[:, j]
        bases[key] = U
    return {name: bases[name if name in bases else name.rpartition(".")[2]] for name in names(base)}


class LiteralProjection(nn.Module):
    """``y = (W0 + alpha / r B A) x + b``."""

    def __init__(self, base: nn.Module, B: torch.Tensor, trains: bool) -> None:
        super().__init__()
        self.register_buffer("W0", matrix(base).detach().clone())
        self.register_buffer("bias0", torch.zeros(1) if base.bias is None else base.bias.detach().clone())
        self.B = nn.Parameter(B.clone(), requires_grad=trains)
        self.A = nn.Parameter(torch.zeros(RANK, self.W0.shape[1], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.W0 + ALPHA / RANK * self.B @ self.A).T + self.bias0


CASES = {
    "layers": {"aggregate": "weights", "common_to": "role", "normalise": True, "center": False, "train_basis": False},
    "models": {"aggregate": "weights", "common_to": "projection", "normalise": False, "center": True,
               "train_basis": False},
    "changes": {"aggregate": "differences", "common_to": "role", "normalise": True, "center": True,
                "train_basis": True},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_all_steps_are_those_of_the_literal_method(case: str) -> None:
    options, others = CASES[case], [] if case == "layers" else [encoder(seed, blocks=1) for seed in (1, 2)]
    blocks = 2 if case == "layers" else 1
    model, literal, data = encoder(blocks=blocks), encoder(blocks=blocks), batches()
    bases = literal_bases(literal, others, options)
    for name, B in bases.items():
        parent, _, child = name.rpartition(".")
        layer = LiteralProjection(literal.get_submodule(name), B, bool(options["train_basis"]))
        setattr(literal.get_submodule(parent), child, layer)
    literal.head.requires_grad_()
    model.head.requires_grad_()
    method = cora(rank=RANK, alpha=ALPHA, models=["a", "b"] if others else None, **options)
    sites = attached(method, model, *others)
    for name, B in bases.items():
        torch.testing.assert_close(model.get_submodule(name).B.detach(), B, rtol=0, atol=1e-11)  # type: ignore[union-attr]

    trained = [parameter for parameter in literal.parameters() if parameter.requires_grad]
    theirs = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
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
    for number in range(1, STEPS + 1):
        x, labels = data[number % len(data)]
        step(number, [{"x": x[part], "labels": labels[part]} for part in (slice(0, 5), slice(5, 8))], 8, event=False)
        theirs.zero_grad()
        loss = F.cross_entropy(literal(x), labels)
        loss.backward()
        norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in trained))
        for parameter in trained:
            parameter.grad *= min(1.0, CLIP / (float(norm) + 1e-6))
        done = number - 1
        theirs.param_groups[0]["lr"] = RATE * min(done / WARMUP, (STEPS - done) / (STEPS - WARMUP))
        theirs.step()
        assert step.read(number).loss == pytest.approx(float(loss.detach()), rel=0, abs=1e-9)
    for site in sites:
        ours, plain = model.get_submodule(site.name), literal.get_submodule(site.name)
        for factor in ("A", "B"):
            one, two = getattr(ours, factor).detach(), getattr(plain, factor).detach()
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
        assert plain.A.abs().max() > 0.01
        assert options["train_basis"] != torch.equal(plain.B, bases[site.name])
    for one, two in zip(model.head.parameters(), literal.head.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
