"""The algorithm written a second time, plainly, and Chain of LoRA trained beside it in float64.

The reference below shares no code with the package: after each link ``W <- W + s B A`` in the weights themselves, fresh
factors, an AdamW made anew over them and the head, and a linear schedule, warm-up included, of the link's own length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Cola
from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.links import LinkSchedule
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import SmallEncoder, linear_maps, new_cola, sites

STEPS, ALPHA = 62, 12.0
RATE, DECAY, WARMUP, CLIP = 2e-2, 0.1, 7, 0.25
LINKS = ((1, 20), (21, 41), (42, 62))
"""First and last step of each of three links: floor(62 j / 3) is 20, 41 and 62."""

Start = dict[tuple[int, str], torch.Tensor]
"""`A` of every link and projection."""


def small() -> SmallEncoder:
    torch.manual_seed(0)
    return SmallEncoder(blocks=1).double()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(17)
    return [
        (torch.randn(8, 10, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator))
        for _ in range(24)
    ]


@dataclass
class Trace:
    """What a run did: losses and norms, every link's factors where it ended, the weights, the head."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    factors: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    head: list[torch.Tensor] = field(default_factory=list)


class LiteralProjection(nn.Module):
    """One adapted linear layer; `W` is what links are merged into."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        weight = base.weight.detach().clone()
        self.W = weight if isinstance(base, nn.Linear) else weight.T.clone()  # GPT-2's lie the other way
        self.b = torch.zeros(len(self.W)).double() if base.bias is None else base.bias.detach().clone()

    def extend(self, A: torch.Tensor) -> None:
        self.A, self.B = nn.Parameter(A.clone()), nn.Parameter(torch.zeros(len(self.W), len(A)).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.W + ALPHA / len(self.A) * self.B @ self.A).T + self.b


def rate_at(done: int, length: int) -> float:
    """Linear warm-up from zero, of the share of all steps that the link has, then linear decay to zero."""
    warmup = WARMUP * length // STEPS
    return RATE * (done / warmup if done < warmup else (length - done) / (length - warmup))


def train_literally(start: Start) -> Trace:
    model, data, trace = small(), batches(), Trace()
    names = list(dict.fromkeys(name for _, name in start))
    layers = {name: LiteralProjection(model.get_submodule(name)) for name in names}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.requires_grad_(False)
    head = [parameter.requires_grad_() for name, parameter in model.named_parameters() if name.startswith("head")]
    for link, (first, last) in enumerate(LINKS, start=1):
        for name, layer in layers.items():
            layer.extend(start[link, name])
        trained = [*(factor for layer in layers.values() for factor in (layer.A, layer.B)), *head]
        adam = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8, fused=False)
        for step in range(first, last + 1):
            x, labels = data[step % len(data)]
            loss = F.cross_entropy(model(x), labels)
            adam.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in trained))
            for parameter in trained:
                parameter.grad *= min(1.0, CLIP / (float(norm) + 1e-6))
            adam.param_groups[0]["lr"] = rate_at(step - first, last - first + 1)
            adam.step()
            trace.losses.append(float(loss.detach()))
            trace.norms.append(float(norm))
        with torch.no_grad():
            for name, layer in layers.items():
                trace.factors[link, name] = layer.A.detach().clone(), layer.B.detach().clone()
                layer.W = layer.W + ALPHA / len(layer.A) * layer.B @ layer.A
    trace.weights = {name: layer.W for name, layer in layers.items()}
    trace.head = [parameter.detach() for parameter in head]
    return trace


def attached(ranks: tuple[int, ...]) -> tuple[nn.Module, Cola, LinkSchedule]:
    model, method = small().requires_grad_(False), new_cola(links=3, ranks=ranks, alpha=ALPHA, dropout=0.0)
    places = sites(linear_maps(model, "blocks"))
    schedule = method.plan(STEPS, places)
    head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith("head")]
    method.attach(model, places, head, schedule, seed=1)
    return model, method, schedule


@pytest.mark.parametrize("ranks", [(3, 3, 3), (4, 2, 1)], ids=["one rank", "a rank for each link"])
def test_a_chain_is_the_literal_algorithm(ranks: tuple[int, ...]) -> None:
    """Under the product's own step, two micro-batches a step: the links of the reference are what is tied here."""
    model, method, schedule = attached(ranks)
    names = [site.name for site in method.sites]
    optimizer = make_optimizer(method, learning_rate=RATE, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    run_step = TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=STEPS, restarts=schedule.restarts),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )
    start: Start = {}

    def remember(link: int) -> None:
        start.update({(link, name): method.state_dict()[f"{name}.A"].clone() for name in names})

    remember(1)
    data, readings, events = batches(), [], []
    for step in range(1, STEPS + 1):
        x, labels = data[step % len(data)]
        parts = [{"x": x[part], "labels": labels[part]} for part in (slice(0, 5), slice(5, 8))]
        report = run_step(step, parts, 8, event=schedule.is_event(step))
        readings.append(run_step.read(step))
        if report.event:
            events.append((step, report.phase, report.budget, report.frozen))
            remember(len(events) + 1)
    expected = train_literally(start)

    assert [reading.loss for reading in readings] == pytest.approx(expected.losses, rel=0, abs=1e-9)
    assert [reading.grad_norm for reading in readings] == pytest.approx(expected.norms, rel=0, abs=1e-9)
    places = len(names)
    assert events == [
        (20, "link 1", places * sum(ranks[:2]), False),
        (41, "link 2", places * sum(ranks), True),
    ]
    state, merged = method.state_dict(), {}
    for site in method.sites:
        delta = method.delta(site, torch.float64)
        assert delta is not None
        merged[site.name] = weight_of(site.module).detach() + delta
    for name in names:
        torch.testing.assert_close(merged[name], expected.weights[name], rtol=0, atol=1e-9)
        first = 0
        for link, rank in enumerate(ranks[:-1], start=1):
            A, B = expected.factors[link, name]
            torch.testing.assert_close(state[f"{name}.tied_A"][first : first + rank], A, rtol=0, atol=1e-9)
            torch.testing.assert_close(
                state[f"{name}.tied_B"][:, first : first + rank], ALPHA / rank * B, rtol=0, atol=1e-9
            )
            first += rank
        A, B = expected.factors[3, name]
        torch.testing.assert_close(state[f"{name}.A"], A, rtol=0, atol=1e-9)
        torch.testing.assert_close(state[f"{name}.B"], B, rtol=0, atol=1e-9)
    for head, wanted in zip(method.head, expected.head, strict=True):
        torch.testing.assert_close(head.detach(), wanted, rtol=0, atol=1e-9)

    # What the comparison rests on: the links are many times larger than the tolerance, clipping is at work, and a link
    # that follows starts from another place than the one before.
    assert all(float((B @ A).norm()) > 1e-2 for A, B in expected.factors.values())
    assert sum(norm > CLIP for norm in expected.norms) > 10
    assert not any(torch.equal(start[1, name][:1], start[2, name][:1]) for name in names)
