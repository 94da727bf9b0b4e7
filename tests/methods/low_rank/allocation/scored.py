"""A small method that scores its components at every step and does nothing with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.base import Method, Statistic
from dora_cli.methods.linear import shape_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation import scores
from dora_cli.methods.low_rank.allocation.followed import Followed
from dora_cli.methods.low_rank.allocation.scores import SCORES, Shown
from dora_cli.methods.low_rank.allocation.values import values
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import Batch, TrainingStep
from tests.methods.small import linear_maps, sites, tiny_roberta

BETA = 0.75


def adapted(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    rank: Callable[[int], int],
    *,
    gates: bool = True,
    scaling: float = 0.5,
    dropout: float = 0.0,
) -> Adapters:
    """Adapters of ranks by number, nothing of which is zero."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layers = {}
    for number, (name, module) in enumerate(modules.items()):
        d_out, d_in = shape_of(module)
        r = rank(number)
        A, B, c = drawn(r, d_in) * d_in**-0.5, drawn(d_out, r) * d_out**-0.5, drawn(r)
        layers[name] = AdaptedProjection(module, A, B, c if gates else None, scaling=scaling, dropout=dropout)
    return Adapters(model, layers)


class Scored(Method):
    """Components of rank 2, 1 or 3, whose `score` is smoothed in `average`; `shown` keeps the values of every step."""

    name = "scored"

    def __init__(self, score: str, *, wanted: Collection[Shown] = (), gates: bool = True) -> None:
        self.score, self._wanted, self._gates = SCORES[score], wanted, gates

    def place(self, model: nn.Module) -> None:
        modules = {site.name: site.module for site in self.sites}
        self.adapters = adapted(model, modules, lambda number: (2, 1, 3)[number % 3], gates=self._gates)
        self.followed = Followed(self.adapters, self.sites, {*self.score.passes, *self._wanted})
        self.average = self.values().new_zeros(sum(len(group.A) for group in self.adapters.groups()))
        self.shown: list[torch.Tensor] = []

    def values(self) -> torch.Tensor:
        return values(self.score, self.followed.observed())

    def parameters(self) -> list[nn.Parameter]:
        return self.adapters.parameters()

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self.followed.training_pass(dtype, masks)

    def statistics(self) -> Sequence[Statistic]:
        return self.followed.statistics()

    @torch.no_grad()
    def adjust_gradients(self) -> torch.Tensor | None:
        self._staged = self.values()
        self.shown.append(self._staged)
        return None

    @torch.no_grad()
    def observe(self, skipped: torch.Tensor | None = None) -> None:
        scores.follow(self.average, self._staged if self.score.staged else self.values(), BETA, skipped)


def step_of(
    method: Method,
    *,
    processes: int = 1,
    scale: float | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    captured: bool = False,
) -> TrainingStep:
    """Training steps of a small RoBERTa, under a loss scaler where there is a `scale`."""
    model = tiny_roberta(dtype=dtype).to(device)
    model.requires_grad_(False)
    projections = sites(linear_maps(model, "encoder.layer"))
    method.attach(model, projections, (), method.plan(40, projections))
    optimizer = make_optimizer(method, learning_rate=1e-2, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    accelerator: Any = SimpleNamespace(
        device=torch.device(device),
        num_processes=processes,
        mixed_precision="no",
        scaler=scaler,
        autocast=lambda handler: nullcontext(),
    )
    return TrainingStep(
        model=model.train(),
        method=method,
        loss=lambda outputs, batch: F.cross_entropy(outputs.logits, batch["labels"], reduction="none"),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=40),
        accelerator=accelerator,
        max_grad_norm=0.1,
        cuda_graph=captured,
    )


EXAMPLES = 6


def texts(which: slice = slice(None), *, length: int = 9, seed: int = 2) -> Batch:
    """Some of six texts of different lengths, up to 7 tokens, filled up to `length`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (EXAMPLES, 7), generator=generator)
    mask = (torch.arange(7) < torch.tensor([7, 3, 5, 1, 7, 4])[:, None]).long()
    batch = {
        "input_ids": F.pad(ids * mask + (1 - mask), (0, length - 7), value=1),
        "attention_mask": F.pad(mask, (0, length - 7)),
        "labels": torch.arange(EXAMPLES) % 3,
    }
    return {name: tensor[which] for name, tensor in batch.items()}


def score_in_two(rank: int, folder: str) -> None:
    """One of two processes, with two texts and four; writes what it comes to into `folder`, where the two also meet."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    averages = {}
    for name in SCORES:
        method = Scored(name)
        step = step_of(method, processes=2)
        for number in (1, 2, 3):
            step(number, [texts((slice(0, 2), slice(2, 6))[rank], seed=number)], EXAMPLES, event=False)
        averages[name] = method.average
    torch.save(averages, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
