"""The published algorithm written a second time, plainly, and XGBLoRA trained beside it in float64.

The reference below shares no code with the package: the weights are dense matrices, the one that trains is ``W + s b
a^T``, the penalty is in the loss and differentiated by autograd, Adam is written out, and at the end of a round ``W``
itself changes and all of Adam's averages begin at zero. Which blocks a round has, and which `a` it begins with, are
taken from the product, which draws them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Xgblora
from dora_cli.methods.xgblora import BoostingSchedule
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import SmallEncoder, new_xgblora
from tests.methods.xgblora.small import block_sites

BLOCKS, LAYERS, RANK = 4, 2, 2
STEPS, ROUNDS = 62, 4
ENDS = (15, 31, 46, 62)
"""floor(62 j / 4)."""
ALPHA, PENALTY = 2.0, 3e-3
RATE, DECAY, WARMUP, CLIP, BETAS, EPS = 2e-2, 0.1, 12, 0.2, (0.9, 0.999), 1e-8

Batch = tuple[torch.Tensor, torch.Tensor]


def small() -> SmallEncoder:
    torch.manual_seed(0)
    return SmallEncoder(blocks=BLOCKS).double()


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(17)
    return [
        (torch.randn(8, 10, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(24)
    ]


@dataclass
class Trace:
    """What a run did, and what it came to."""

    losses: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    head: list[torch.Tensor] = field(default_factory=list)


@dataclass
class Round:
    """What was drawn for a booster: the first `a` of every projection it has, by name."""

    rows: dict[str, torch.Tensor]


def rate_at(step: int, anew: bool) -> float:
    """Linear warm-up, then linear decay; in each round a share of the warm-up as large as its share of the steps."""
    first, last = 1, STEPS
    if anew:
        last = next(end for end in ENDS if step <= end)
        first = max((end + 1 for end in ENDS if end < step), default=1)
    done, length = step - first, last - first + 1
    warmup = WARMUP * length // STEPS
    return RATE * (done / warmup if done < warmup else (length - done) / (length - warmup))


def train_literally(rounds: list[Round], step_size: float, anew: bool) -> Trace:
    model, data, trace = small(), batches(), Trace()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    head = {name: weights[name] for name in weights if name.startswith("head")}
    for round_, end in enumerate(ENDS):
        first = ENDS[round_ - 1] + 1 if round_ else 1
        a = {name: row.clone() for name, row in rounds[round_].rows.items()}
        b = {name: torch.zeros(10 if name.endswith(("att", "down")) else 14, dtype=torch.float64) for name in a}
        trained = [*a.values(), *b.values(), *head.values()]
        m, v = [torch.zeros_like(x) for x in trained], [torch.zeros_like(x) for x in trained]

        def present(a: dict[str, torch.Tensor] = a, b: dict[str, torch.Tensor] = b) -> dict[str, torch.Tensor]:
            found = dict(weights)
            for name in a:
                update = ALPHA * torch.outer(b[name], a[name])
                key = f"{name}.weight"
                found[key] = weights[key] + (update.T if name.endswith("up") else update)  # GPT-2's lie the other way
            return found

        for t, step in enumerate(range(first, end + 1), start=1):
            x, labels = data[step % len(data)]
            for tensor in trained:
                tensor.requires_grad_(True)
            task = F.cross_entropy(torch.func.functional_call(model, present(), (x,)), labels)
            penalty = PENALTY / 2 * sum((vector**2).sum() for vector in (*a.values(), *b.values()))
            gradients = torch.autograd.grad(task + penalty, trained)
            for tensor in trained:
                tensor.requires_grad_(False)
            norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
            rate = rate_at(step, anew)
            for index, (tensor, gradient) in enumerate(zip(trained, gradients, strict=True)):
                g = gradient * min(1.0, CLIP / (float(norm) + 1e-6))
                m[index] = BETAS[0] * m[index] + (1 - BETAS[0]) * g
                v[index] = BETAS[1] * v[index] + (1 - BETAS[1]) * g * g
                tensor *= 1 - rate * DECAY
                correction = (1 - BETAS[1] ** t) ** 0.5
                tensor -= rate / (1 - BETAS[0] ** t) * m[index] / (v[index].sqrt() / correction + EPS)
            trace.losses.append(float(task.detach()))
            trace.penalties.append(float(penalty.detach()))
            trace.norms.append(float(norm))
        for name in a:
            update = step_size * ALPHA * torch.outer(b[name], a[name])
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + (update.T if name.endswith("up") else update)
    trace.weights = weights
    trace.head = list(head.values())
    return trace


def boosted(step_size: float, anew: bool) -> tuple[nn.Module, Xgblora, BoostingSchedule]:
    model = small().requires_grad_(False)
    method = new_xgblora(
        rank=RANK,
        layers=LAYERS,
        alpha=ALPHA,
        step_size=step_size,
        norm_penalty=PENALTY,
        restart_learning_rate=anew,
    )
    places = block_sites(model)
    schedule = method.plan(STEPS, places)
    head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith("head")]
    method.attach(model, places, head, schedule, seed=1)
    return model, method, schedule


def begun(method: Xgblora) -> Round:
    """The booster that has just begun."""
    state = method.state_dict()
    rows = {name: state[f"{name}.A"] for name in (site.name for site in method.sites) if f"{name}.A" in state}
    assert not any(state[f"{name}.B"].any() for name in rows)
    return Round({name: A[0].clone() for name, A in rows.items()})


@pytest.mark.parametrize(
    ("step_size", "anew", "cuts"),
    [(1.0, True, [slice(0, 8)]), (0.6, False, [slice(0, 5), slice(5, 8)])],
    ids=["as published", "a smaller step, one schedule"],
)
def test_xgblora_is_the_literal_algorithm(step_size: float, anew: bool, cuts: list[Any]) -> None:
    """Under the product's own step: fused AdamW, tied components beside a base that stays as it is."""
    model, method, schedule = boosted(step_size, anew)
    data, base = batches(), {name: parameter.clone() for name, parameter in small().named_parameters()}
    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=BETAS, eps=EPS)
    run_step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=STEPS, restarts=schedule.restarts),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    rounds, readings = [begun(method)], []
    for step in range(1, STEPS + 1):
        x, labels = data[step % len(data)]
        parts = [{"x": x[part], "labels": labels[part]} for part in cuts]
        report = run_step(step, parts, 8, event=schedule.is_event(step))
        readings.append(run_step.read(step))
        assert report.event == (step in ENDS)
        if report.event and step < STEPS:
            rounds.append(begun(method))

    expected = train_literally(rounds, step_size, anew)
    assert [reading.loss for reading in readings] == pytest.approx(expected.losses, rel=0, abs=1e-9)
    assert [reading.regulariser for reading in readings] == pytest.approx(expected.penalties, rel=0, abs=1e-9)
    assert [reading.grad_norm for reading in readings] == pytest.approx(expected.norms, rel=0, abs=1e-9)
    for site in method.sites:
        update = method.delta(site, torch.float64)
        assert update is not None
        weight = base[f"{site.name}.weight"] + (update.T if site.name.endswith("up") else update)
        torch.testing.assert_close(weight, expected.weights[f"{site.name}.weight"], rtol=0, atol=1e-9)
    for found, wanted in zip(method.head, expected.head, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-9)

    # What the comparison rests on: four rounds of two blocks, not always the same; the norm was clipped, weights moved.
    assert [len(round_.rows) for round_ in rounds] == [3 * LAYERS] * ROUNDS
    assert len({frozenset(round_.rows) for round_ in rounds}) > 1
    assert sum(norm > CLIP for norm in expected.norms) > 10
    moved = [(expected.weights[f"{name}.weight"] - base[f"{name}.weight"]).norm() for name in rounds[-1].rows]
    assert min(moved) > 0.05
