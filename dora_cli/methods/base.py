"""The contract between a way of adapting weights and the rest of the program.

A method owns everything that differs between ways of adapting weights, its phases included. The training loop calls it
in a fixed order, once per optimiser step (`step` counts from 1)::

    forward and backward of every micro-batch within training_pass() -> all-reduce -> unscale -> adjust_gradients(step)
    -> clip
        -> optimiser -> observe() -> advance(step)

`training_pass`, `adjust_gradients` and `observe` run on the device alone and do the same work at every step, so that a
CUDA graph can repeat them; what they do may change only where `advance` reports `frozen`, or replaced parameters.
`advance` is for the host. The loop knows nothing else about it. Methods know tensors and modules; never recipes, tasks,
files or printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

Shape = tuple[int, int]
"""Shape of a projection's weight as ``(d_out, d_in)``, whatever the storage order of its module."""


@dataclass(frozen=True)
class Replacement:
    """A parameter that shrank: `new` holds the slices `kept` of `old` along `dimension`.

    `new` is None if nothing is left; the optimiser then forgets the parameter. Its moments are sliced in the same way.
    """

    old: nn.Parameter
    new: nn.Parameter | None
    dimension: int
    kept: torch.Tensor


@dataclass(frozen=True)
class StepReport:
    """What happened after one optimiser step, known on the host without waiting for the device.

    Attributes:
        phase: name of the phase this step belongs to, such as ``"pruning"``.
        budget: how many components may live after this step (0 for methods without ranks).
        live: components selected at the latest event, all start components before the first.
        event: True if a selection took place at this step; the method may then have waited for the device.
        frozen: True at the one step after which ranks stay as they are.
        replaced: the parameters that shrank at this step.
    """

    phase: str
    budget: int
    live: int
    event: bool = False
    frozen: bool = False
    replaced: Sequence[Replacement] = ()


@dataclass(frozen=True)
class ProjectionAllocation:
    """The rank of one projection.

    Attributes:
        name: full path of the projection in the model.
        shape: ``(d_out, d_in)``.
        start_rank: components it started with.
        rank: components selected at the latest event (all of them before the first).
        scores: importance of every start component, by its original position; None where the method has no scores.
    """

    name: str
    shape: Shape
    start_rank: int
    rank: int
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class LoraFactors:
    """Plain LoRA of one projection: the update of its weight is exactly ``B @ A`` (scale 1).

    `A` has shape ``(rank, d_in)``, `B` ``(d_out, rank)``; both fp32 on the CPU.
    """

    A: torch.Tensor
    B: torch.Tensor

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])


class Schedule(Protocol):
    """When things happen, in optimiser steps; the one source for training, dry run, reports and tests."""

    @property
    def total_steps(self) -> int: ...

    @property
    def start_components(self) -> int: ...

    @property
    def final_components(self) -> int: ...

    @property
    def freeze_step(self) -> int:
        """The step after which ranks stay; 0 for methods whose ranks never change."""

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        """``(name, first step, last step)`` of each phase that has a step, in order."""

    def phase(self, step: int) -> str: ...

    def budget(self, step: int) -> int:
        """Components that may live after `step`."""

    def next_event(self, step: int) -> int | None:
        """The first event after `step`, None if there is none."""

    def describe(self) -> Mapping[str, Any]:
        """Plain values for records and the dry run."""


class Method(Protocol):
    """A way of adapting weights. See the module's docstring for the order of calls."""

    name: str

    @property
    def frozen(self) -> bool:
        """Whether the ranks are final."""

    def plan(self, total_steps: int, shapes: Mapping[str, Shape]) -> Schedule:
        """Pure: validates the budget against `total_steps` and the projections' shapes; raises BudgetError."""

    def attach(self, model: nn.Module, projections: Mapping[str, nn.Module], schedule: Schedule | None = None) -> None:
        """Replaces or marks `projections` (full path -> module) of `model` and decides which of their parameters train.

        Without a schedule the method can only be loaded into and evaluated, not trained.
        """

    def parameters(self) -> list[nn.Parameter]:
        """The parameters the method trains, in a stable order. The head is not among them."""

    def training_pass(self, dtype: torch.dtype | None = None) -> AbstractContextManager[None]:
        """Around one forward and backward pass in training, under autocast to `dtype`, None without autocast."""

    def adjust_gradients(self, step: int) -> torch.Tensor | None:
        """Edits gradients in place after all-reduce and unscaling, before clipping; returns a scalar for the log, on
        the device.
        """

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """After the optimiser's step.

        `skipped` is a boolean scalar on the device: where true, the step changed nothing and scores stay.
        """

    def advance(self, step: int) -> StepReport:
        """After `observe`: the phase, and what an event does. Only an event may wait for the device.

        Phases and events follow the steps attempted, so an event still selects, by the scores there are: counts stay
        exact.
        """

    def folded(self) -> AbstractContextManager[None]:
        """Inside, the adapters are part of the base weights; leaving it restores the saved base weights bit for bit."""

    def merge(self) -> None:
        """Puts plain modules with merged weights in place of the adapted ones, for good; the method is of no use
        afterwards.
        """

    def allocation(self) -> list[ProjectionAllocation]: ...

    def to_lora(self) -> dict[str, LoraFactors]:
        """Plain factors per projection with at least one live component; exact up to the rounding of two products."""

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores ranks (shrinking tensors where the state has fewer components), values, scores and phase."""
