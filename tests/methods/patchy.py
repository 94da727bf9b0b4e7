"""A model of which a step reaches now this part, now that one, and one part never; under full fine-tuning."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods import Full
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import Batch, TrainingStep


class Patchy(nn.Module):
    """A model with a pooler that nothing reads, and a second layer that only wide inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4, dtype=torch.float64), nn.Linear(4, 4, dtype=torch.float64)
        self.pooler = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        h = self.first(x)
        return SimpleNamespace(logits=self.second(torch.tanh(h)) if len(x) > 2 else h)


def started(processes: int = 1) -> tuple[Patchy, TrainingStep]:
    """All of it trains, as one of so many processes."""
    model = Patchy()
    method = Full()
    method.attach(model, [], [], method.plan(40, []))
    optimizer = make_optimizer(method, learning_rate=1e-2, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    accelerator: Any = SimpleNamespace(
        device=torch.device("cpu"), num_processes=processes, mixed_precision="no", scaler=None, autocast=nullcontext
    )
    return model, TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, one: F.cross_entropy(outputs.logits, one["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=40),
        accelerator=accelerator,
        max_grad_norm=1.0,
    )


def batch(rows: int) -> Batch:
    torch.manual_seed(rows)
    return {"x": torch.randn(rows, 4, dtype=torch.float64), "labels": torch.arange(rows) % 4}


ROWS = ((2, 2), (3, 2), (2, 2), (2, 3), (2, 2))
"""The micro-batches of each step, one for each of two processes: wide ones reach the second layer."""


def train_in_two(rank: int, folder: str) -> None:
    """One of two processes; writes what it comes to into `folder`, where the two also meet."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model, step = started(processes=2)
    for number, rows in enumerate(ROWS, start=1):
        step(number, [batch(rows[rank])], sum(rows), event=False)
    torch.save({**model.state_dict(), "states": len(step.optimizer.state)}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
