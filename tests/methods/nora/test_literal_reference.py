"""The published algorithm written a second time, plainly, and NoRA trained beside it in float64.

The reference below shares no code with the package: NumPy's whole SVD of each (scaled) weight, cut off; explicit
products of five matrices, differentiated by autograd; AdamW over the inner factors and the head, and clipping over all
of them. What is not published is as in ours: where the singular values go, the sign of a singular vector, and by what
an activation-aware SVD scales, which the reference measures by itself from the inputs that each map reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods.base import Measured
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.nora.running import NAMES, new_nora
from tests.methods.small import SmallEncoder, linear_maps, sites, small_encoder

STEPS, INNER, OUTER, ALPHA = 40, 3, 6, 6.0
RATE, DECAY, WARMUP, CLIP = 1e-2, 0.1, 10, 0.2
Batch = tuple[torch.Tensor, torch.Tensor]


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(17)
    return [
        (torch.randn(8, 10, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(24)
    ]


def inputs_of(model: SmallEncoder) -> dict[str, torch.Tensor]:
    """What each map of the blocks reads, over all batches."""
    seen: dict[str, torch.Tensor] = {}
    x = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        for index, block in enumerate(model.blocks):
            seen[f"blocks.{index}.att"] = block.norm(x)
            x = x + torch.tanh(block.att(block.norm(x)))
            seen[f"blocks.{index}.up"] = x
            seen[f"blocks.{index}.down"] = torch.tanh(block.up(x))
            x = x + block.down(torch.tanh(block.up(x)))
    return seen


class LiteralProjection(nn.Module):
    """One adapted linear layer."""

    def __init__(self, base: nn.Module, read: torch.Tensor, A_i: torch.Tensor, aware: bool, both: bool) -> None:
        super().__init__()
        weight = base.weight.detach().clone()
        self.W0 = weight if isinstance(base, nn.Linear) else weight.T  # GPT-2's lie the other way
        self.b0 = torch.zeros(len(self.W0)).double() if base.bias is None else base.bias.detach().clone()
        strength = np.sqrt((read.numpy() ** 2).mean(0))
        S = np.diag(strength / np.sqrt((strength**2).mean())) if aware else np.eye(read.shape[1])
        U, sigma, Vh = np.linalg.svd(self.W0.numpy() @ S, full_matrices=False)
        for i in range(OUTER):
            if Vh[i][np.abs(Vh[i]).argmax()] < 0:
                Vh[i], U[:, i] = -Vh[i], -U[:, i]
        Sigma = np.diag(sigma[:OUTER])
        left, right = (np.sqrt(Sigma), np.sqrt(Sigma)) if both else (Sigma, np.eye(OUTER))
        self.B_o = torch.from_numpy(U[:, :OUTER] @ left)
        self.A_o = torch.from_numpy(right @ Vh[:OUTER] @ np.linalg.inv(S))
        self.A_i = nn.Parameter(A_i.clone())
        self.B_i = nn.Parameter(torch.zeros(OUTER, INNER, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        update = self.B_o @ (self.B_i @ self.A_i) @ self.A_o
        return x @ (self.W0 + (ALPHA / INNER) * update).T + self.b0


def rate_at(step: int) -> float:
    done = step - 1
    return RATE * (done / WARMUP if done < WARMUP else (STEPS - done) / (STEPS - WARMUP))


def train_literally(start: dict[str, torch.Tensor], aware: bool, both: bool) -> tuple[SmallEncoder, list[float]]:
    model, data, losses = small_encoder(), batches(), []
    seen = inputs_of(model)
    layers = {
        name: LiteralProjection(model.get_submodule(name), seen[name], start[f"{name}.A"], aware, both)
        for name in NAMES
    }
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.requires_grad_(False)
    trained = [
        *(factor for layer in layers.values() for factor in (layer.A_i, layer.B_i)),
        *model.head.parameters(),
    ]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8, fused=False)
    for step in range(1, STEPS + 1):
        x, labels = data[step % len(data)]
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in trained))
        for parameter in trained:
            parameter.grad *= min(1.0, CLIP / (float(norm) + 1e-6))
        optimizer.param_groups[0]["lr"] = rate_at(step)
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, losses


@pytest.mark.parametrize(
    ("outer", "singular_values"),
    [("plain", "output"), ("activation-aware", "both")],
)
def test_nora_is_the_literal_algorithm(outer: Any, singular_values: Any) -> None:
    """Under the product's own step, by the lean pass; two micro-batches a step."""
    model, data = small_encoder().requires_grad_(False), batches()
    method = new_nora(
        rank=INNER, outer_rank=OUTER, alpha=ALPHA, dropout=0.0, outer=outer, singular_values=singular_values
    )
    places = sites(linear_maps(model, "blocks"))
    head = list(model.head.requires_grad_(True).parameters())
    method.attach(model, places, head, method.plan(STEPS, places), seed=1)
    if method.calibration() is not None:
        read = inputs_of(small_encoder())
        method.calibrate(Measured(inputs={name: x.T @ x / len(x) for name, x in read.items()}))
    start = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    aware, both = outer == "activation-aware", singular_values == "both"
    expected, losses = train_literally(start, aware, both)

    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    run_step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=STEPS),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    found = []
    for step in range(1, STEPS + 1):
        x, labels = data[step % len(data)]
        parts = [{"x": x[part], "labels": labels[part]} for part in (slice(0, 5), slice(5, 8))]
        run_step(step, parts, 8, event=False)
        found.append(run_step.read(step).loss)

    assert found == pytest.approx(losses, rel=0, abs=1e-9)
    state = method.state_dict()
    for name in NAMES:
        literal = expected.get_submodule(name)
        for key, tensor in {"A": literal.A_i, "B": literal.B_i, "A_o": literal.A_o, "B_o": literal.B_o}.items():
            torch.testing.assert_close(state[f"{name}.{key}"], tensor.detach(), rtol=0, atol=1e-9)
        assert torch.equal(state[f"{name}.A_o"], start[f"{name}.A_o"])
        assert float((state[f"{name}.A"] - start[f"{name}.A"]).abs().max()) > 1e-2
        assert float(state[f"{name}.B"].abs().max()) > 1e-2
    for one, other in zip(head, expected.head.parameters(), strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=0, atol=1e-9)
