"""DoRA behind the contract of `dora_cli.methods.base`: attach, regularise, score, prune, freeze, compact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Literal

import torch
from torch import nn

from dora_cli.errors import BudgetError
from dora_cli.methods.base import (
    Allocation,
    Calibration,
    Group,
    LoraFactors,
    Measured,
    Method,
    Schedule,
    Site,
    Size,
    Statistic,
    StepReport,
)
from dora_cli.methods.dora.cuts import Cuts, costs_of
from dora_cli.methods.dora.regulariser import variance_gradients_for
from dora_cli.methods.dora.schedule import Curve, DoraSchedule
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.directions import measured_start
from dora_cli.methods.low_rank.allocation.followed import Followed
from dora_cli.methods.low_rank.allocation.moments import SecondMoments
from dora_cli.methods.low_rank.allocation.refit import refit as refitted
from dora_cli.methods.low_rank.allocation.rotation import ROTATIONS, SINGULAR
from dora_cli.methods.low_rank.allocation.scores import SCORES, WORDS, follow
from dora_cli.methods.low_rank.allocation.starts import SCALINGS, STARTS
from dora_cli.methods.low_rank.allocation.turner import Turner
from dora_cli.methods.low_rank.allocation.values import values
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.gradients.adjusted import adjustment
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.noise.flatness import noise_on
from dora_cli.methods.low_rank.selection import Selection, check_one_device
from dora_cli.methods.low_rank.step_bound import bound_on

HELD_OUT = 0.1
"""Share of the training split that a guard looks at."""


class Dora(Method):
    """Dynamic Low-Rank Adaptation (Mao et al. 2024; reference section 1).

    Args:
        rank: `rT`, mean final rank of a projection.
        start_rank: `r0`; None means ``ceil(1.5 * rank)``.
        start: how factors and gates begin (`allocation.starts`).
        calibration_examples: of the training split, for a start that is measured.
        gates: ``"trained"``; or ``"fixed"``: there are none, and what an event removes is gone for good.
        alpha, scaling: the update is scaled by ``alpha`` over a rank (`allocation.starts.SCALINGS`), for good.
        learning_rate_ratio: learning rate of `B` over that of `A`.
        gate_rate: learning rate of the gates over that of `A`.
        dropout: probability for the adapters' input.
        gradients: what the optimiser is given: ``"plain"``, autograd's; ``"pro"`` or ``"riemannian"`` without gates
            (see `low_rank.gradients.adjusted`).
        damping: of the Gram matrices of the latter two; None takes the usual one.
        score: what components are worth (`allocation.scores`).
        ema_beta: smoothing of the scores.
        rotate: a change of variables before every cut (`allocation.rotation`); components are then worth the squares
            of their singular values, and what an event removes is gone for good.
        refit: whether what a cut leaves makes up for what goes (`allocation.refit`); without gates alone.
        budget: what the schedule counts (`allocation.budget`).
        min_rank, max_rank: what a projection keeps, and what it may have in the end.
        warmup_fraction, final_fraction: shares of the steps before pruning and after the freeze.
        prune_interval: steps between events.
        events: how many there are, in place of an interval.
        guard: whether ranks become uniform at the freeze unless the chosen ones have a lower loss on a tenth of the
            training split, which is held out for that; until then no projection has less than `rank`.
        curve: see `DoraSchedule`.
        dem_weight: `eta`, weight of the regulariser; 0 turns it off.
        dem_scale: ``"published"`` divides the sum of variances by ``2 M r0`` (the code), ``"paper"`` by ``M r0``
            (equation 10).
        dem_until: ``"freeze"`` (the code) or ``"end"`` (the paper's algorithm 1).
        compact: whether tensors shrink at the freeze. It changes memory and speed, not a number.
        flatness: sigma of the noise on the adapted weights in training (`low_rank.noise`); 0 for none. A projection
            that the freeze leaves without a component has none.
        step_bound: on how far a step moves a weight, over the weight's norm (`low_rank.step_bound`); None for none;
            without gates alone.
    """

    name = "dora"
    fuses = True
    packs = True
    announces = True

    def __init__(
        self,
        *,
        rank: int,
        start_rank: int | None,
        start: str,
        calibration_examples: int,
        gates: Literal["trained", "fixed"],
        alpha: float,
        scaling: str,
        learning_rate_ratio: float,
        gate_rate: float,
        dropout: float,
        gradients: str,
        damping: float | None,
        score: str,
        ema_beta: float,
        rotate: str,
        refit: bool,
        budget: str,
        min_rank: int,
        max_rank: int | None,
        warmup_fraction: float,
        final_fraction: float,
        prune_interval: int,
        events: int | None,
        curve: Curve,
        guard: bool,
        dem_weight: float,
        dem_scale: Literal["published", "paper"],
        dem_until: Literal["freeze", "end"],
        compact: bool,
        flatness: float,
        step_bound: float | None,
    ) -> None:
        self.rank = rank
        self.start_rank = ceil(1.5 * rank) if start_rank is None else start_rank
        self.start, self.measured_start = STARTS[start], measured_start(start, calibration_examples)
        self.gated = gates == "trained"
        # `plan` refuses a rank of 0
        self.scaling = SCALINGS[scaling](alpha, self.start_rank, rank) if min(self.start_rank, rank) > 0 else 0.0
        self.learning_rate_ratio, self.gate_rate = learning_rate_ratio, gate_rate
        self.adjustment = adjustment(gradients, damping)
        self.score, self.rotation = SCORES[score], ROTATIONS[rotate]
        self.scored_by = SINGULAR.get(rotate, WORDS[score])
        self.refits = refit
        self.unit, self.min_rank, self.max_rank = budget, min_rank, max_rank
        self.events = events
        self.guard, self.held_out = guard, HELD_OUT if guard else 0.0
        self.dropout = dropout
        self.ema_beta = ema_beta
        self.warmup_fraction = warmup_fraction
        self.final_fraction = final_fraction
        self.prune_interval = prune_interval
        self.curve: Curve = curve
        self.dem_weight = dem_weight
        self.dem_divisor = 2 if dem_scale == "published" else 1
        self.dem_until = dem_until
        self.compact = compact
        self.flatness = flatness
        self.step_bound = step_bound
        self._last_step: int | None = 0

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> DoraSchedule:
        """The schedule of a run of `total_steps` over `sites`; raises BudgetError."""
        schedule = DoraSchedule.plan(
            total_steps=total_steps,
            projections=len(sites),
            start_rank=self.start_rank,
            rank=self.rank,
            warmup_fraction=self.warmup_fraction,
            final_fraction=self.final_fraction,
            interval=self.prune_interval,
            curve=self.curve,
            wanted_events=self.events,
            unit=self.unit,
            rank_cost=sum(costs_of(sites, self.unit)),
            min_rank=self.min_rank,
            max_rank=self.max_rank,
        )
        thin = [f"{site.name} ({site.shape[0]} x {site.shape[1]})" for site in sites if min(site.shape) < 2]
        if thin:
            raise BudgetError(
                f"projections need at least 2 x 2 to be adapted; leave these out of method.targets: {', '.join(thin)}"
            )
        return schedule

    def planned_size(self, sites: Sequence[Site], schedule: Schedule) -> tuple[int, int | None]:
        """Stored is what the budget pays for: exactly of one in parameters, at uniform ranks of one in components."""
        entries = sum(sum(site.shape) for site in sites)
        return self.start_rank * entries, self.rank * entries

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.start_rank for site in sites}

    def place(self, model: nn.Module) -> None:
        """Wraps every projection; `A` and `B` are drawn in the order of the sites."""
        sites = self.sites
        assert sites, "nothing to adapt"
        if self.schedule is not None:
            check_one_device(sites)
        self._adapters = Adapters(model, {site.name: self._wrapped(site) for site in sites})
        rotation = self.rotation
        follows = self.refits or (rotation is not None and rotation.reads_inputs)
        self._moments = SecondMoments(self._adapters, self.ema_beta) if follows else None
        wanted = (*self.score.passes, *(self._moments.passes if self._moments else ()))
        self._followed = Followed(self._adapters, sites, wanted)
        self._turner = None
        if rotation is not None:
            self._turner = Turner(rotation, self._moments, directions=self.adjustment is not None)
        self._selection = Selection(
            self._adapters,
            sites,
            self.start_rank,
            compact=self.compact,
            final=not self.gated or self._turner is not None,
            choose=Cuts(sites, rank=self.rank, min_rank=self.min_rank, unit=self.unit, guard=self.guard).choose,
            worth=self.score.worth,
            rotate=self._turner,
            refit=self._refitted if self.refits else None,
            guard=self.rank if self.guard else None,
        )
        self._staged: torch.Tensor | None = None
        self._noise = noise_on(
            self._adapters.layers, sites, self._schedule, sigma=self.flatness, seed=self.generator.initial_seed()
        )
        self._step_bound = bound_on(self.step_bound, self._schedule)
        self._last_step = 0

    def _wrapped(self, site: Site) -> AdaptedProjection:
        dtype = trained_type(weight_of(site.module).dtype)
        A, B, c = self.start(*site.shape, self.start_rank, dtype, self.generator)
        gates = c if self.gated else None
        return AdaptedProjection(site.module, A, B, gates, scaling=self.scaling, dropout=self.dropout)

    def calibration(self) -> Calibration | None:
        return None if self.measured_start is None else self.measured_start.wanted

    def calibrate(self, measured: Measured) -> None:
        """What the start is made of, or the loss that the guard has asked for."""
        if measured.loss is None:
            assert self.measured_start is not None, "nothing was wanted"
            self.measured_start.take(measured, self._adapters.layers)
        else:
            self._selection.calibrate(measured.loss)

    def computed_start(self) -> Sequence[torch.Tensor]:
        return [] if self.measured_start is None else [layer.A for layer in self._adapters.layers.values()]

    def _refitted(self, group: Components, B_t: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """See `allocation.refit`."""
        assert self._moments is not None and not self.gated
        layout = group.layout
        return layout.rows(refitted(layout.stacked(B_t), self._moments.of(group), layout.stacked(keep)))

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def groups(self) -> list[Group]:
        if self.learning_rate_ratio == self.gate_rate == 1:
            return super().groups()
        layers = self._adapters.layers.values()
        gates = [Group([layer.gates for layer in layers], rate=self.gate_rate)] if self.gated else []
        return [
            Group([*(layer.A for layer in layers), *self.head]),
            Group([layer.B for layer in layers], rate=self.learning_rate_ratio),
            *gates,
        ]

    # -- once per step -------------------------------------------------------------------------------------------------

    def begin_step(self, step: int, learning_rate: float) -> None:
        if self._noise is not None:
            self._noise.begin_step(step)
        if self._step_bound is not None:
            self._step_bound.begin_step(step, self._selection.groups())

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """See `Adapters.training_pass`; until the freeze what a score or a rotation wants is followed."""
        if self.frozen:
            return self._adapters.training_pass(dtype)
        return self._followed.training_pass(dtype, masks)

    def statistics(self) -> list[Statistic]:
        return [] if self.frozen else self._followed.statistics()

    @torch.no_grad()
    def adjust_gradients(self) -> torch.Tensor | None:
        """Stages what scores are made of, while weights and gradients belong together; adjusts the loss's gradients
        where that is asked for; adds the gradient of DEM, once and in closed form; after the freeze, clears the
        gradients of masked components.

        Clearing comes before clipping, and covers the factors as well as the gates, so that masked and compacted
        training clip alike.

        Returns:
            DEM's part of the loss, ``eta * R``, on the device; None while it is off.
        """
        selection = self._selection
        if not selection.frozen:
            self._stage()
        if self.adjustment is not None:
            self.adjustment(selection.groups())
        if self._step_bound is not None:
            self._step_bound.stage(selection.groups())
        regularised = bool(self.dem_weight) and (self.dem_until == "end" or not selection.frozen)
        if not regularised and not selection.masked:
            return None
        weight = self.dem_weight / (self.dem_divisor * len(self.sites) * self.start_rank)
        variances = []
        groups = selection.groups()
        add_variance_gradients = variance_gradients_for(selection.scores.device, selection.scores.dtype)
        masks = selection.masks() if selection.masked else [None] * len(groups)
        for group, mask in zip(groups, masks, strict=True):
            grad_A, grad_B_t, grad_c = group.take_gradients()
            if regularised:
                of_both = add_variance_gradients((grad_A, grad_B_t), (group.A, group.B_t), weight)
                # masked components count as gone, as they are after compaction
                variances.append((of_both if mask is None else of_both * mask).flatten())
            if mask is not None:
                assert grad_c is not None, "without gates nothing is masked"
                torch._foreach_mul_([grad_A, grad_B_t, grad_c], [mask[:, None], mask[:, None], mask])
        return torch.cat(variances).sum() * weight if regularised else None

    @torch.no_grad()
    def announce(self) -> None:
        selection = self._selection
        add_variance_gradients = variance_gradients_for(selection.scores.device, selection.scores.dtype)
        for group in selection.groups() if self.dem_weight else ():
            grad_A, grad_B_t, _ = group.take_gradients()
            add_variance_gradients((grad_A, grad_B_t), (group.A, group.B_t), 0.0)
        if not selection.frozen and self._turner is None:
            values(self.score, self._followed.observed())

    def _stage(self) -> None:
        """Before the optimiser's step: the step's scores where they need its gradients, and what a cut needs."""
        if self._moments is not None:
            self._moments.stage(self._followed.observed())
        if self.score.staged and self._turner is None:
            self._staged = values(self.score, self._followed.observed())

    @torch.no_grad()
    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """Holds the step; then scores and their EMA; after the freeze the permanent mask.

        Where `skipped` is true, scores stay as they were.
        """
        selection = self._selection
        if self._step_bound is not None:
            self._step_bound.hold(selection.groups())
        if selection.frozen:
            if selection.masked:
                selection.apply()
            return
        if self._moments is not None:
            self._moments.observe(skipped)
        if self._turner is not None:
            return  # scores are what the latest rotation found
        found = self.scores() if self._staged is None else selection.in_order(self._staged)
        follow(selection.scores, found, self.ema_beta, skipped)
        self._staged = None

    @torch.no_grad()
    def advance(self, step: int) -> StepReport:
        """At an event the selection; at the freeze the permanent mask or compaction.

        Raises:
            DivergedError: an event finds scores that are not finite; nothing is changed.
        """
        schedule = self.schedule
        assert schedule is not None, "attach with a schedule before training"
        report = self._selection.advance(step, schedule)
        if report.wanted is None:
            self._count(step)
        return report

    def after_step(self, step: int, skipped: torch.Tensor | None = None) -> StepReport:
        """`observe`, then `advance`: all that follows the optimiser's step, for a loop of the user's own."""
        self._check_turn(step)
        self.observe(skipped)
        report = self.advance(step)
        self.begin_step(step + 1, 0.0)  # which such a loop does not call
        return report

    def _count(self, step: int) -> None:
        self._check_turn(step)
        self._last_step = step

    def _check_turn(self, step: int) -> None:
        """Refuses a step out of turn: an event, even the freeze, could fall into a gap."""
        if self._last_step is not None and step != self._last_step + 1:
            raise BudgetError(
                f"after_step({step}) came after {self._last_step} steps; give it the number of the optimiser step, "
                "counted from 1 without gaps (not of the micro-batch or the epoch)"
            )

    @property
    def last_step(self) -> int | None:
        """The latest step that `after_step` was told of, 0 before the first; None if a state was loaded since."""
        return self._last_step

    @property
    def schedule(self) -> DoraSchedule | None:
        """That of the training it was attached for; None if it was attached for evaluation only."""
        assert self._schedule is None or isinstance(self._schedule, DoraSchedule)
        return self._schedule

    def scores(self) -> torch.Tensor:
        """Scores of the present weights, not averaged: ``(projections, r0)``. Only before the freeze, and only of a
        score that needs nothing else.
        """
        assert not self.score.staged, "this score needs a step's gradients"
        return self._selection.in_order(values(self.score, self._followed.observed()))

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        return self._selection.size(self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        return self._selection.allocation()

    @property
    def frozen(self) -> bool:
        return self._selection.frozen

    def to_lora(self) -> dict[str, LoraFactors]:
        return self._selection.to_lora()

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._selection.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._selection.load_state_dict(state)
        self._last_step = None  # a state does not say where in its run it was taken

    def training_state(self) -> dict[str, torch.Tensor]:
        """What a rotation or a refit follows, until the freeze."""
        return {} if self._moments is None or self.frozen else self._moments.state_dict()

    def load_training_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if self._moments is None or self.frozen:
            super().load_training_state(state)
        else:
            self._moments.load_state_dict(state)
