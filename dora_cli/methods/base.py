"""The contract between a way of adapting weights and the rest of the program.

A method owns everything that differs between ways of adapting weights, its phases included: `Method` is the base class,
whose defaults do nothing, and a method overrides what it needs. Before the first step::

    check(model, head) -> plan(total_steps, sites) -> attach(model, sites, head, schedule)
        -> calibrate(measured), where calibration() asks

The training loop then calls it in a fixed order, once per optimiser step (`step` counts from 1)::

    begin_step(step, learning_rate)
    forward and backward of every micro-batch, each within training_pass(dtype, masks)
    sum over processes (gradients and statistics()), unscaling
    adjust_gradients() -> clipping -> optimiser -> observe(skipped) -> gradients and statistics to zero
    advance(step), again after calibrate(measured) as long as its report wants something measured

What stands between `begin_step` and `advance` runs on the device alone and does the same work at every step, so that a
CUDA graph can repeat it; what differs from step to step reaches it as tensors on the device that `begin_step` fills.
Its work may change only where `advance` reports it. `begin_step` and `advance` are for the host. The loop knows nothing
else about a method. Methods know tensors and modules; never recipes, tasks, files or printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError, ModelError
from dora_cli.methods.carry import Carry
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
        dropout: full path of the model's own dropout of what it gives, before the residual sum; empty where that is no
            module, or none that can be told.
        norm: full path of the norm that the block applies to the residual sum after it; empty in pre-norm blocks.
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
    dropout: str = ""
    norm: str = ""

    @property
    def reads(self) -> str:
        """The stack whose tokens it reads: keys and values of cross-attention read the encoder's."""
        return "encoder" if self.attention == "cross" and self.role in ("key", "value") else self.stack


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
    """A parameter that shrank or grew: `new` holds the slices `kept` of `old` along `dimension`, then what was added.

    The optimiser's state is sliced in the same way; of what was added it begins at zero. `new` is None if nothing is
    left; the optimiser then forgets the parameter.
    """

    old: nn.Parameter
    new: nn.Parameter | None
    dimension: int
    kept: torch.Tensor


@dataclass(frozen=True)
class Mixture:
    """A parameter whose slices along `dimension` became combinations of what they were; its values are new already.

    `carry` says how gradients of the slices change with them, and so moments; where it tells of none of them, and in
    an optimiser that is not of Adam's kind, all that is kept of the parameter starts anew.
    """

    parameter: nn.Parameter
    dimension: int
    carry: Carry


@dataclass(frozen=True)
class Calibration:
    """What a method asks to have measured, before its first step or at an event; dropout is off meanwhile.

    Attributes:
        kind: ``"inputs"``, the second moments of what each site reads; ``"gradients"``, the gradient of the loss for
            each site's weight; ``"loss"``, the mean loss of the examples held out of the training split (`held_out`).
        examples: how many of the training split, drawn by the run's seed; ``"loss"`` takes all that is held out.
    """

    kind: Literal["inputs", "gradients", "loss"]
    examples: int = 256


@dataclass(frozen=True)
class Measured:
    """The answer to a `Calibration`, the same in every process, in fp32 on the sites' devices.

    Attributes:
        inputs: by site, ``E[x x^T]`` over real tokens, ``(d_in, d_in)``.
        gradients: by site, ``dL/dW`` of the mean loss, ``(d_out, d_in)``.
        loss: mean over loss units.
    """

    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    loss: float | None = None


@dataclass(frozen=True)
class Statistic:
    """What a method sums over the micro-batches of a step, from zero; afterwards it is the sum over all processes.

    Attributes:
        tensor: in the type of what trains; the step sets it to zero together with the gradients.
        power: how often the loss's gradient is a factor in it: by it gradient scaling (fp16) is undone.
    """

    tensor: torch.Tensor
    power: int = 0


@dataclass(frozen=True)
class Size:
    """What adapters take up, the head left out.

    Attributes:
        stored: entries of the tensors that a finished adapter stores; what published sizes count.
        trained: entries that trained at once, at the most.
        bytes: of the tensors that a finished adapter stores, whatever they are for.
    """

    stored: int
    trained: int
    bytes: int


@dataclass(frozen=True)
class StepReport:
    """What happened after one optimiser step, known on the host without waiting for the device.

    Attributes:
        phase: name of the phase this step belongs to, such as ``"pruning"``.
        budget: how many components may live after this step (0 for methods without ranks); of a method without a
            budget, as many as live.
        live: components selected at the latest event, all start components before the first.
        event: True if a selection took place at this step; the method may then have waited for the device.
        frozen: True at the one step after which ranks stay as they are.
        mixed: the parameters whose slices were mixed at this step, before any of them shrank.
        replaced: the parameters that shrank or grew at this step.
        restarted: parameters whose optimiser state starts anew.
        regrouped: whether `groups` gives other parameters than before: some began or ceased to train.
        recapture: whether the device's work is another from here on, for a reason that the above does not say.
        remark: what a user should be told of the event; None for nothing.
        wanted: what `calibrate` must be given before `advance` is called again for this step; nothing else of such a
            report counts.
    """

    phase: str
    budget: int
    live: int
    event: bool = False
    frozen: bool = False
    mixed: Sequence[Mixture] = ()
    replaced: Sequence[Replacement] = ()
    restarted: Sequence[nn.Parameter] = ()
    regrouped: bool = False
    recapture: bool = False
    remark: str | None = None
    wanted: Calibration | None = None

    @property
    def changes_work(self) -> bool:
        """Whether what was captured before this step is of no use after it."""
        return bool(self.mixed or self.replaced or self.restarted or self.regrouped or self.frozen or self.recapture)


@dataclass(frozen=True)
class Allocation:
    """The rank of one projection.

    Attributes:
        name: full path of the projection in the model.
        shape: ``(d_out, d_in)``.
        start_rank: components it started with.
        rank: components selected at the latest event (all of them before the first).
        scores: importance of every start component, by its original position; None where the method has no scores.
        parameters: entries that a finished adapter stores for it alone; None where that is a row of `A` and a column of
            `B` a component, ``rank (d_in + d_out)``.
        links: of a method that learns one link after another, the number of the link, from 1, that each component came
            with; only there `rank` may be above `start_rank`.
        live: the original positions of the `rank` components that were selected, ascending; None where they are those
            of the highest scores.
    """

    name: str
    shape: Shape
    start_rank: int
    rank: int
    scores: tuple[float, ...] | None = None
    parameters: int | None = None
    links: tuple[int, ...] | None = None
    live: tuple[int, ...] | None = None


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


@dataclass(frozen=True)
class FactorPair:
    """The two factors of a site while they train: the parameters themselves, of fixed shape; the update of the site's
    weight is a constant times ``B @ A``.

    `name` is the site's; `A` has shape ``(rank, d_in)``, `B` ``(d_out, rank)``.
    """

    name: str
    A: nn.Parameter
    B: nn.Parameter


class Schedule(Protocol):
    """When things happen, in optimiser steps; the one source for training, dry run, reports and tests."""

    @property
    def total_steps(self) -> int: ...

    @property
    def start_components(self) -> int: ...

    @property
    def final_components(self) -> int | None:
        """The budget; None where how many are left is not planned, but emerges."""

    @property
    def freeze_step(self) -> int:
        """The step after which ranks stay; 0 for methods whose ranks never change, or may change until the end."""

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        """``(name, first step, last step)`` of each phase that has a step, in order."""

    @property
    def restarts(self) -> Sequence[int]:
        """Steps after which the learning rate's schedule starts anew, warm-up included; ascending."""

    def phase(self, step: int) -> str: ...

    def budget(self, step: int) -> int:
        """Components that may live after `step`."""

    def next_event(self, step: int) -> int | None:
        """The first event after `step`, None if there is none."""

    def describe(self) -> Mapping[str, Any]:
        """Plain values for records and the dry run."""


def events_of(schedule: Schedule) -> Iterator[int]:
    """The steps of all events, ascending."""
    step = schedule.next_event(0)
    while step is not None:
        yield step
        step = schedule.next_event(step)


@dataclass(frozen=True)
class PlainSchedule:
    """One phase; components, where there are any, stay as many as they are."""

    total_steps: int
    components: int = 0
    freeze_step: int = 0

    PHASE: ClassVar[str] = "training"

    @classmethod
    def of(cls, total_steps: int, components: int = 0) -> PlainSchedule:
        """Raises BudgetError where there is no step."""
        if total_steps < 1:
            raise BudgetError(
                f"the run has {total_steps} optimiser steps; it needs at least 1: raise train.epochs or train.max_steps"
            )
        return cls(total_steps, components)

    @property
    def start_components(self) -> int:
        return self.components

    @property
    def final_components(self) -> int:
        return self.components

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        return ((self.PHASE, 1, self.total_steps),)

    @property
    def restarts(self) -> Sequence[int]:
        return ()

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
            "freeze_step": self.freeze_step,
        }


class Method:
    """A way of adapting weights; the defaults are those of a method that adapts nothing.

    See the module's docstring for the order of calls. A method that replaces projections keeps the module of each site
    and tells the update by `delta`; folding and merging follow from that.

    Attributes:
        name: what a recipe calls it.
        cannot_merge: why its update fits into no base weight; empty where it does.
        plans_by_blocks: whether its plan follows from the blocks of the model: without a model there is none.
        reference_models: names or folders of other base models whose weights `place` asks for, as `references`.
        held_out: share of the training split that is kept from training, for `Calibration` of the loss.
        fuses: whether blocks may be compiled around what it puts there: lean projections of `low_rank`, or modules of
            PyTorch's own.
        packs: whether the texts of a batch may stand in one row: what it takes from a training pass does not depend on
            which tokens are of one text, or is taken by the masks of texts.
        announces: whether its training pass launches kernels by way of `triton_launch`, and may be gone through once
            more before a process's first step, for them to be compiled: what it computes then is worth nothing, and
            must show in nothing but gradients and `statistics`, which become zero afterwards.
        scored_by: what the scores of its `allocation` are, in words; None where it gives none.
    """

    name: ClassVar[str]
    cannot_merge: ClassVar[str] = ""
    plans_by_blocks: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    announces: ClassVar[bool] = False
    reference_models: Sequence[str] = ()
    held_out: float = 0.0
    scored_by: str | None = None

    def takes(self, site: Site) -> bool:
        """Whether it can adapt `site`. The groups of `targets` leave out the others; a pattern that matches nothing
        else is refused.
        """
        return True

    # -- before the first step -----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> Schedule:
        """When what happens in a run of `total_steps` over `sites`; pure, so that it works on the meta device.

        What happens when is planned, what is chosen then is not. Raises BudgetError where the settings, the steps and
        the sites do not go together.
        """
        return PlainSchedule.of(total_steps)

    def check(self, model: nn.Module, head: Sequence[nn.Parameter]) -> None:
        """Raises ModelError where there is nothing in `model` that the method could train; pure, as `plan` is.

        It is asked of a model on the meta device before a weight is loaded.
        """

    def remarks(self, sites: Sequence[Site]) -> list[str]:
        """What is to be said of a training over `sites` before it starts, such as what it takes up; pure, as `plan`
        is.
        """
        return []

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        """How many components each site starts with, by name, 0 for one that stays as it is; pure, as `plan` is. Empty
        where the method has none.
        """
        return {}

    def planned_size(self, sites: Sequence[Site], schedule: Schedule) -> tuple[int, int | None]:
        """Entries that train at once at the start and entries that the finished adapter stores; pure, as `plan` is, and
        asked of a method with `start_ranks` alone.

        By default a component is a row of `A` and a column of `B`, and what is left is spread evenly; stored is None
        where what is left emerges.
        """
        ranks, budget = self.start_ranks(sites), schedule.final_components
        start = sum(ranks[site.name] * sum(site.shape) for site in sites)
        return start, None if budget is None else start * budget // max(schedule.start_components, 1)

    def attach(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        head: Sequence[nn.Parameter] = (),
        schedule: Schedule | None = None,
        *,
        seed: int = 0,
        references: Sequence[Mapping[str, torch.Tensor]] = (),
        fresh: bool = True,
    ) -> None:
        """Remembers what the method works on and has it take its `place`.

        Args:
            model: changed in place; its parameters are frozen.
            sites: what is adapted, in the order of the model.
            head: what trains outside the adapters.
            schedule: what `plan` gave; without one the method can only be loaded into and evaluated, not trained.
            seed: what a method draws comes from a generator of its own that is made of it.
            references: for each of `reference_models` its weights by site, ``(d_out, d_in)``, while `place` is at
                work; none where the method will be loaded into.
            fresh: whether a training begins; else the method will be loaded into, and a start that takes long to
                compute need not be.
        """
        self._fresh = fresh
        self._model, self._sites, self._head, self._schedule = model, list(sites), list(head), schedule
        self._generator, self._references = torch.Generator().manual_seed(seed), list(references)
        self.place(model)
        self._references = []  # whole models

    def place(self, model: nn.Module) -> None:
        """Replaces or marks the modules of `sites` in `model`, and decides what trains."""

    @property
    def sites(self) -> Sequence[Site]:
        """What it was attached to."""
        return self._sites

    @property
    def head(self) -> Sequence[nn.Parameter]:
        """What trains outside the adapters."""
        return self._head

    @property
    def generator(self) -> torch.Generator:
        """On the CPU: whatever the method draws comes from it. Its state is part of every checkpoint."""
        return self._generator

    @property
    def references(self) -> Sequence[Mapping[str, torch.Tensor]]:
        """For each of `reference_models` its weights by site, within `place`; none where the method will be loaded
        into.
        """
        return self._references

    @property
    def fresh(self) -> bool:
        """Whether a training begins; else the method will be loaded into."""
        return self._fresh

    def calibration(self) -> Calibration | None:
        """What the method must know of model and data before its first step; a resumed run has it in its state."""
        return None

    def calibrate(self, measured: Measured) -> None:
        """Takes what was asked for by `calibration`, or by a report of `advance`. What trains may become another."""
        raise AssertionError(f"the method {self.name} asks for nothing")

    def computed_start(self) -> Sequence[torch.Tensor]:
        """What was computed of weights or data rather than drawn: all processes take those of the first, since such a
        computation may differ between two devices.
        """
        return ()

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the adapters that train, in a stable order. The head is not among them."""
        return []

    def factors(self) -> Sequence[FactorPair]:
        """What a server may merge of several clients' factors, site by site, where all that the adapters train are two
        factors a site whose shapes stay what they are; none otherwise.
        """
        return ()

    def groups(self) -> list[Group]:
        """All that trains, the head included, by how it trains."""
        return [Group([*self.parameters(), *self._head])]

    def make_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over `groups`, which say their learning rate, weight decay, betas and epsilon.

        Its state is tensors, and zeros before the first step. What is in the shape of its parameter is sliced where
        that shrinks; what is neither that nor a scalar (moments of a whole weight) must be there from the beginning,
        and is loaded in place. One that has an attribute `found_inf` reads there, as fused AdamW does, whether its step
        is to change nothing; what any other changes is copied first and put back.
        """
        return torch.optim.AdamW([dict(group) for group in groups], fused=True)

    # -- once per step -------------------------------------------------------------------------------------------------

    def begin_step(self, step: int, learning_rate: float) -> None:
        """On the host, before the step's first forward pass: fills what differs from step to step.

        `learning_rate` is the schedule's for this step, which the groups' factors multiply.
        """

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """Around one forward and backward pass in training.

        Args:
            dtype: autocast's; None without autocast.
            masks: which tokens are real, ``(B, T)`` by stack (see `Site.reads`), for statistics taken on the way; where
                several texts stand in one row, also those of each, ``(texts, T)``, under ``texts``. None where all are.
        """
        return nullcontext()

    def statistics(self) -> Sequence[Statistic]:
        """What is summed over processes, and unscaled, together with the gradients; always as many of the same shapes
        between two reports that change the work.
        """
        return ()

    def adjust_gradients(self) -> torch.Tensor | None:
        """Edits gradients in place before clipping, stages scores; returns a scalar for the log, on the device."""
        return None

    def announce(self) -> None:
        """After such a pass launches those kernels of `adjust_gradients` and `observe` that go by way of
        `triton_launch`, for them to be compiled; gradients become zero afterwards, and nothing else is changed.
        """

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """After the optimiser's step, gradients still there: commits what was staged, or edits weights.

        `skipped` is a boolean scalar on the device: where true, the step changed nothing and nothing may change here.
        """

    def advance(self, step: int) -> StepReport:
        """On the host, after all of it: the phase, and what an event does. Only an event may wait for the device.

        Phases and events follow the steps attempted, so an event still selects, by the scores there are: counts stay
        exact. Called again for the same step once `calibrate` has had what its report wanted.
        """
        schedule = self._schedule
        assert schedule is not None, "attach with a schedule before training"
        return StepReport(schedule.phase(step), schedule.budget(step), schedule.final_components or 0)

    @property
    def frozen(self) -> bool:
        """Whether the ranks are final."""
        return True

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        """The update of a site's weight, ``(d_out, d_in)``, computed in `dtype`; None where there is none."""
        return None

    def merged_tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """The base tensors that the method changes, with the change in them, one after the other: full name, and value
        in its own layout and in `dtype`. Base plus `delta` of every site.

        A method that trains base tensors gives those. One that inserts modules says `cannot_merge`.
        """
        from dora_cli.methods.merging import with_updates

        return with_updates(((site.name, site.module, self.delta(site, dtype)) for site in self.sites), dtype)

    def folded(self) -> AbstractContextManager[None]:
        """Inside, the model is plain and computes with `merged_tensors`, so an evaluation costs what the base model's
        does; leaving it puts all back as it was. Nothing happens where a method `cannot_merge`.
        """
        from dora_cli.methods.merging import folded_in

        return nullcontext() if self.cannot_merge else folded_in(self._model, self._bases, self.merged_tensors)

    def merge(self, dtype: torch.dtype | None = None) -> None:
        """Makes the model plain for good, with `merged_tensors` in it; the method is of no use afterwards.

        The sums are made in float64 and rounded once.

        Args:
            dtype: what they are rounded to; None for the base's own.

        Raises:
            ModelError: the method `cannot_merge`.
        """
        if self.cannot_merge:
            raise ModelError(
                f"the method {self.name} {self.cannot_merge}, so there is no merged model; save its adapter instead"
            )
        from dora_cli.methods.merging import merge_into

        merge_into(self._model, self._bases, self.merged_tensors(torch.float64), dtype)
        self.release()

    @property
    def _bases(self) -> dict[str, nn.Module]:
        return {site.name: site.module for site in self.sites}

    def release(self) -> None:
        """Frees what only training passes need, such as copies of base weights; the next pass makes it anew."""

    def size(self) -> Size:
        """What the adapters take up. May wait for the device, but for a method without `start_ranks`: of that it is
        asked before training too, on the meta device.
        """
        entries = sum(parameter.numel() for parameter in self.parameters())
        return Size(entries, entries, self._stored_bytes())

    def _stored_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

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
        """What a finished adapter is."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores ranks (shrinking tensors where the state has fewer components), values, scores and phase.

        Raises CheckpointError on the first misfit.
        """
        if state:
            raise CheckpointError(
                f"tensor {shown(min(state))} is in the checkpoint, but the method {self.name} adapts nothing"
            )

    def training_state(self) -> dict[str, torch.Tensor]:
        """What only a resumed run needs, beside `state_dict` and the optimiser's state."""
        return {}

    def load_training_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `training_state`, after `load_state_dict`. Raises CheckpointError on the first misfit."""
        if state:
            raise CheckpointError(
                f"tensor {shown(min(state))} is in the checkpoint's training state, but the method {self.name} keeps "
                "none"
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


@torch.no_grad()
def load_tensors(places: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Copies `state` into `places`, by key. Raises CheckpointError on the first misfit, before anything is written."""
    for key, tensor in places.items():
        check_tensor(key, state, tensor.shape, tensor.dtype)
    if unknown := state.keys() - places.keys():
        raise CheckpointError(
            f"tensor {shown(min(unknown))} is in the checkpoint, but this model and recipe have no place for it"
        )
    for key, tensor in places.items():
        tensor.copy_(state[key])
