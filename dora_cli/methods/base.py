"""The contract between a way of adapting weights and the rest of the program.

A method owns everything that differs between ways of adapting weights, its phases included: `Method` is the base class,
whose defaults do nothing, and a method overrides what it needs. The training loop calls it in a fixed order, once per
optimiser step (`step` counts from 1)::

    begin_step(step)
    forward and backward of every micro-batch, each within training_pass(dtype, mask)
    sum over processes (gradients and statistics()), unscaling
    adjust_gradients() -> clipping -> optimiser -> observe(skipped) -> gradients to zero
    advance(step)

What stands between `begin_step` and `advance` runs on the device alone and does the same work at every step, so that a
CUDA graph can repeat it; what differs from step to step reaches it as tensors on the device that `begin_step` fills.
Its work may change only where `advance` reports it. `begin_step` and `advance` are for the host. The loop knows nothing
else about a method. Methods know tensors and modules; never recipes, tasks, files or printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError
from dora_cli.printable import shown

Shape = tuple[int, int]
"""Shape of a projection's weight as ``(d_out, d_in)``, whatever the storage order of its module."""

Role = Literal["query", "key", "value", "output", "up", "gate", "down", "fused", "other"]
"""What a projection computes in its block; ``fused`` is several of them in one, ``other`` is not known."""


@dataclass(frozen=True)
class Site:
    """A place in a block that a method may adapt: a linear map.

    Attributes:
        name: full path in the model.
        module: the `nn.Linear` or `Conv1D`.
        shape: ``(d_out, d_in)``, whatever the storage order.
        stack: ``"encoder"`` or ``"decoder"``.
        block: number of the block in its stack, from 0.
        attention: ``"self"`` or ``"cross"`` for attention projections, else None.
        projection: path within the block.
        group: ``"attention"`` or ``"ffn"``.
        role: what it computes.
    """

    name: str
    module: nn.Module
    shape: Shape
    stack: str = "encoder"
    block: int = 0
    attention: str | None = None
    projection: str = ""
    group: str = "ffn"
    role: Role = "other"


@dataclass(frozen=True)
class Group:
    """Parameters that train alike.

    Attributes:
        parameters: in a stable order.
        rate: factor on the learning rate.
        weight_decay: their own; None for the run's.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    weight_decay: float | None = None


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
class Allocation:
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


@dataclass(frozen=True)
class PlainSchedule:
    """One phase; components, where there are any, stay as many as they are.

    Attributes:
        projections: those with a component.
        parameters: of all components.
    """

    total_steps: int
    components: int = 0
    projections: int = 0
    parameters: int = 0
    freeze_step: int = 0

    PHASE: ClassVar[str] = "training"

    @classmethod
    def of(cls, total_steps: int, ranks: Mapping[Site, int] | None = None) -> PlainSchedule:
        """That of a run over sites of these ranks. Raises BudgetError where there is no step."""
        if total_steps < 1:
            raise BudgetError(
                f"the run has {total_steps} optimiser steps; it needs at least 1: raise train.epochs or train.max_steps"
            )
        ranks = ranks or {}
        return cls(
            total_steps,
            components=sum(ranks.values()),
            projections=sum(1 for rank in ranks.values() if rank),
            parameters=sum(rank * sum(site.shape) for site, rank in ranks.items()),
        )

    @property
    def start_components(self) -> int:
        return self.components

    @property
    def final_components(self) -> int:
        return self.components

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        return ((self.PHASE, 1, self.total_steps),)

    def phase(self, step: int) -> str:
        return self.PHASE

    def budget(self, step: int) -> int:
        return self.components

    def next_event(self, step: int) -> int | None:
        return None

    def describe(self) -> Mapping[str, Any]:
        return {
            "total_steps": self.total_steps,
            "start_components": self.components,
            "final_components": self.components,
            "projections": self.projections,
            "parameters": self.parameters,
            "freeze_step": self.freeze_step,
        }


class Method:
    """A way of adapting weights; the defaults are those of a method that adapts nothing.

    See the module's docstring for the order of calls.
    """

    name: ClassVar[str]

    # -- before the first step -----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> Schedule:
        """When what happens in a run of `total_steps` over `sites`; pure, so that it works on the meta device.

        Raises BudgetError where the settings, the steps and the sites do not go together.
        """
        return PlainSchedule.of(total_steps)

    def attach(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        head: Sequence[nn.Parameter] = (),
        schedule: Schedule | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Replaces or marks the modules of `sites` in `model`, whose parameters are frozen, and decides what trains.

        Args:
            model: changed in place.
            sites: what is adapted, in the order of the model.
            head: what trains outside the adapters.
            schedule: what `plan` gave; without one the method can only be loaded into and evaluated, not trained.
            seed: what a method draws comes from a generator of its own that is made of it.
        """
        self._sites, self._head, self._schedule = list(sites), list(head), schedule

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the adapters that train, in a stable order. The head is not among them."""
        return []

    def groups(self) -> list[Group]:
        """All that trains, the head included, by how it trains."""
        return [Group([*self.parameters(), *self._head])]

    def make_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over `groups`, which say their learning rate, weight decay, betas and epsilon.

        Its state is tensors, each a scalar or in the shape of its parameter, and zeros before the first step.
        """
        return torch.optim.AdamW([dict(group) for group in groups], fused=True)

    @property
    def sites(self) -> Sequence[Site]:
        """What it was attached to."""
        return self._sites

    # -- once per step -------------------------------------------------------------------------------------------------

    def begin_step(self, step: int) -> None:
        """On the host, before the step's first forward pass: fills what differs from step to step."""

    def training_pass(
        self, dtype: torch.dtype | None = None, mask: torch.Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Around one forward and backward pass in training.

        Args:
            dtype: autocast's; None without autocast.
            mask: which tokens are real, ``(B, T)``, for statistics taken on the way; None where all are.
        """
        return nullcontext()

    def statistics(self) -> list[torch.Tensor]:
        """Tensors that are summed over processes, and unscaled, together with the gradients."""
        return []

    def adjust_gradients(self) -> torch.Tensor | None:
        """Edits gradients in place before clipping, stages scores; returns a scalar for the log, on the device."""
        return None

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """After the optimiser's step, gradients still there: commits what was staged, or edits weights.

        `skipped` is a boolean scalar on the device: where true, the step changed nothing and nothing may change here.
        """

    def advance(self, step: int) -> StepReport:
        """On the host, after all of it: the phase, and what an event does. Only an event may wait for the device.

        Phases and events follow the steps attempted, so an event still selects, by the scores there are: counts stay
        exact.
        """
        schedule = self._schedule
        assert schedule is not None, "attach with a schedule before training"
        return StepReport(schedule.phase(step), schedule.budget(step), schedule.final_components)

    @property
    def frozen(self) -> bool:
        """Whether the ranks are final."""
        return True

    # -- what came of it -----------------------------------------------------------------------------------------------

    def folded(self) -> AbstractContextManager[None]:
        """Inside, the adapters are part of the base weights; leaving it restores the saved base weights bit for bit."""
        return nullcontext()

    def merge(self) -> None:
        """Puts plain modules with merged weights in place of the adapted ones, for good; the method is of no use
        afterwards.
        """

    def size(self) -> int:
        """Entries of the tensors that a finished adapter stores, the head left out: what published sizes count."""
        return sum(parameter.numel() for parameter in self.parameters())

    def allocation(self) -> list[Allocation]:
        """Ranks in the order of attachment; none where the method has none. May wait for the device."""
        return []

    def to_lora(self) -> dict[str, LoraFactors] | None:
        """Plain factors per projection with at least one live component; exact up to the rounding of two products.

        None where the update is no such product; `merge` is the only way out then.
        """
        return None

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a finished adapter is, and what a resumed run needs of it."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores ranks (shrinking tensors where the state has fewer components), values, scores and phase.

        Raises CheckpointError on the first misfit.
        """
        if state:
            raise CheckpointError(
                f"tensor {shown(min(state))} is in the checkpoint, but the method {self.name} adapts nothing"
            )


def check_tensor(key: str, state: Mapping[str, torch.Tensor], shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raises CheckpointError unless `state` holds `key` in this shape and type."""
    tensor = state.get(key)
    if tensor is None:
        raise CheckpointError(f"tensor {key} is missing from the checkpoint")
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        raise CheckpointError(
            f"tensor {key} is {tensor.dtype} {tuple(tensor.shape)} in the checkpoint; this model and recipe need "
            f"{dtype} {tuple(shape)}"
        )
