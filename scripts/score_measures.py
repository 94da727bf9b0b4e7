"""What `score_truth` measures of components while they are all there: what the held-out loss does without some of them,
and how well a score tells.

Components are numbered by projection and place: what is said of all of them is ``(M, r)``, the projections in the order
of their groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from dora_cli.data import Encoded, inputs_of, to_device
from dora_cli.evaluation.passes import Run, directly, evaluation_mode
from dora_cli.methods.low_rank.allocation.budget import BUDGETS, select
from dora_cli.methods.low_rank.components import Components

WITHIN = 4
"""Components that are drawn of a projection at least, where it has so many: scores are also compared within one."""

HALVES = 2
"""Parts of the examples whose losses are kept apart, row by row in turn: how far they agree tells what is chance."""


class HeldOut:
    """Examples that a model is measured on again and again: batches on the device, of similar length each.

    Args:
        model: whose answers are measured.
        loss: of each loss unit, from what the model gave and the batch.
        data: the examples.
        batch_size: rows at a time.
        device: where the model is.
        around: each pass, such as autocast.
        run: how passes are done, such as in CUDA graphs.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor],
        data: Encoded,
        *,
        batch_size: int,
        device: torch.device,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        run: Run = directly,
    ) -> None:
        self._run = run
        self._model, self._loss, self._around, self._device = model, loss, around, device
        self.rows = len(data)
        order = sorted(range(len(data)), key=lambda row: -int(data.lengths[row]))
        rows = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self._batches = [to_device(data.collate(part), device) for part in rows]
        units = [sum(int(data.units[part[half::HALVES]].sum()) for part in rows) for half in range(HALVES)]
        self._units = torch.tensor(units, dtype=torch.float64, device=device)

    def losses(self) -> torch.Tensor:
        """The mean loss of either half of the examples, ``(2,)``, on the device; nothing waits for it."""
        total = torch.zeros(HALVES, dtype=torch.float64, device=self._device)
        with evaluation_mode(self._model):
            for batch in self._batches:
                total += self._run(self._of_halves, batch)
        return total / self._units

    def _of_halves(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The summed loss of either half of a batch."""
        with self._around():
            found = self._loss(self._model(**inputs_of(batch)), batch)
        return torch.stack([found[half::HALVES].sum(dtype=torch.float64) for half in range(HALVES)])

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """That of all examples, ``(...)``, from those of the halves, ``(..., 2)``."""
        return (losses * self._units).sum(-1) / self._units.sum()


@dataclass(frozen=True)
class Held:
    """Components, all of a rank, and the examples by which they are judged.

    Attributes:
        groups: where they are.
        held_out: the examples.
    """

    groups: Sequence[Components]
    held_out: HeldOut

    @property
    def costs(self) -> dict[str, list[int]]:
        """By budget, what a component of each projection costs."""
        shapes = [(layer.out_features, layer.in_features) for group in self.groups for layer in group.layers]
        return {name: [cost(shape) for shape in shapes] for name, cost in BUDGETS.items()}

    @contextmanager
    def without(self, gone: torch.Tensor) -> Iterator[None]:
        """The model computes without the components `gone`, boolean ``(M, r)``: their columns of `B` are zero."""
        kept = [group.B_t.clone() for group in self.groups]
        parts = gone.flatten().split([len(group.B_t) for group in self.groups])
        for group, part in zip(self.groups, parts, strict=True):
            group.B_t.masked_fill_(part[:, None], 0.0)
        try:
            yield
        finally:
            for group, B_t in zip(self.groups, kept, strict=True):
                group.B_t.copy_(B_t)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Whatever happens to the components meanwhile, they are as before afterwards."""
        kept = [(tensor, tensor.clone()) for group in self.groups for tensor in (group.A, group.B_t)]
        try:
            yield
        finally:
            for tensor, before in kept:
                tensor.copy_(before)

    @torch.no_grad()
    def losses_without(self, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
        """The losses of both halves without each of several sets of components, ``(n, 2)``, on the device."""
        found = []
        for gone in chosen:
            with self.without(gone):
                found.append(self.held_out.losses())
        return torch.stack(found)


def draw(projections: int, rank: int, wanted: int, generator: torch.Generator) -> torch.Tensor:
    """About `wanted` random components, at most so many, several of each projection that is drawn; each component as
    likely as any other but for rounding. ``(n, 2)``: projection and place, on the CPU.
    """
    each = min(rank, max(WITHIN, -(-wanted // projections)))
    drawn = torch.randperm(projections, generator=generator)[: max(1, wanted // each)]
    places = [torch.randperm(rank, generator=generator)[:each] for _ in drawn]
    return torch.stack([drawn.repeat_interleave(each), torch.cat(places)], 1)


def one_by_one(drawn: torch.Tensor, like: torch.Tensor) -> list[torch.Tensor]:
    """A set for each of the components `drawn`: itself alone, boolean, of the shape of `like` and on its device."""
    sets = torch.zeros(len(drawn), *like.shape, dtype=torch.bool)
    sets[torch.arange(len(drawn)), drawn[:, 0], drawn[:, 1]] = True
    return list(sets.to(like.device))


def lowest(worth: torch.Tensor, share: Fraction, costs: Sequence[int]) -> torch.Tensor:
    """What a cut of `share` of all that components cost removes: those of the least worth for their cost, boolean like
    `worth`, ``(M, r)``.
    """
    total = worth.shape[1] * sum(costs)
    return ~select(worth, total - math.floor(share * total), costs)


def agreement(
    worth: Sequence[float], changes: Sequence[float], projections: Sequence[int]
) -> dict[str, float | int | None]:
    """Spearman's rho, ties at their mean rank: over all components, and the mean of those within each projection.

    None where all are equal, or there are too few; such a projection does not count.
    """
    within: list[float] = []
    for projection in sorted(set(projections)):
        rows = [row for row, other in enumerate(projections) if other == projection]
        rho = _rho([worth[row] for row in rows], [changes[row] for row in rows])
        if rho is not None:
            within.append(rho)
    return {
        "overall": _rho(worth, changes),
        "within": sum(within) / len(within) if within else None,
        "projections": len(within),
    }


def _rho(x: Sequence[float], y: Sequence[float]) -> float | None:
    from scipy.stats import spearmanr

    if min(len(set(x)), len(set(y))) < 2:
        return None
    return float(spearmanr(x, y).statistic)
