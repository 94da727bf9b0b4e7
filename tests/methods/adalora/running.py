"""AdaLoRA on small models under the product's own training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Adalora
from dora_cli.methods.base import StepReport
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.adalora import AdaloraMethod
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import linear_maps, sites

Batch = dict[str, torch.Tensor]


def new_adalora(**settings: Any) -> Adalora:
    """AdaLoRA with a recipe's defaults for what `settings` leave open."""
    return Adalora(**(arguments(AdaloraMethod()) | settings))


def token_batches(count: int = 24, seed: int = 17) -> list[Batch]:
    """Batches of `small.tiny_roberta`'s tokens and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(3, 40, (8, 6), generator=generator),
            "labels": torch.randint(3, (8,), generator=generator),
        }
        for _ in range(count)
    ]


class Run:
    """A model, AdaLoRA on those of its projections whose path contains `within`, and `TrainingStep` over both.

    Attributes:
        losses, norms, penalties: of every step, the loss without its penalty.
        keeps: what the selection of each event has left.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Adalora,
        *,
        total_steps: int,
        batches: list[Batch],
        within: str = "roberta.encoder",
        head: str = "classifier",
        learning_rate: float = 1e-2,
        weight_decay: float = 0.01,
        lr_warmup: int = 4,
        seed: int = 1,
    ) -> None:
        self.model, self.method, self.batches = model, method, batches
        projections = sites(linear_maps(model, within))
        self.schedule = method.plan(total_steps, projections)
        model.requires_grad_(False)
        self.head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith(head)]
        method.attach(model, projections, self.head, self.schedule, seed=seed)
        self.optimizer = make_optimizer(
            method, learning_rate=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.999), eps=1e-8
        )
        self._step = TrainingStep(
            model=model,
            method=method,
            loss=_losses,
            optimizer=self.optimizer,
            scheduler=make_scheduler(self.optimizer, warmup_steps=lr_warmup, total_steps=total_steps),
            accelerator=make_accelerator(torch.device("cpu"), "fp32"),
            max_grad_norm=1.0,
            skip_nonfinite=1,
        )
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.penalties: list[float | None] = []
        self.keeps: dict[int, torch.Tensor] = {}

    def step(self, step: int, batch: Batch | None = None) -> StepReport:
        """Step number `step`, on its batch unless another is given."""
        batch = self.batches[step % len(self.batches)] if batch is None else batch
        report = self._step(step, [batch], len(batch["labels"]), event=self.schedule.is_event(step))
        reading = self._step.read(step)
        self.losses.append(reading.loss)
        self.norms.append(reading.grad_norm)
        self.penalties.append(reading.regulariser)
        if report.event:
            self.keeps[step] = self.state("keep")
        return report

    def run(self, first: int, last: int, before: Callable[[int], None] | None = None) -> None:
        for step in range(first, last + 1):
            if before is not None:
                before(step)
            self.step(step)

    def state(self, key: str) -> torch.Tensor:
        return self.method.state_dict()[key].clone()

    def names(self) -> list[str]:
        """Those of the projections that have triplets in memory."""
        return [key.removesuffix(".c") for key in self.method.state_dict() if key.endswith(".c")]


def _losses(outputs: Any, batch: Batch) -> torch.Tensor:
    logits = outputs.logits if hasattr(outputs, "logits") else outputs
    return F.cross_entropy(logits, batch["labels"], reduction="none")
