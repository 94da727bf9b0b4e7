"""AdaLoRA behind the contract of `dora_cli.methods.base`: attach, penalise, score, mask, freeze, compact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Literal

import torch
from torch import nn

from dora_cli.methods.adalora.orthogonality import Stack
from dora_cli.methods.adalora.schedule import AdaloraSchedule
from dora_cli.methods.adalora.sensitivity import Sensitivity
from dora_cli.methods.base import Allocation, LoraFactors, Method, Site, Size, StepReport
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.selection import Selection, check_one_device

_STD = 0.02
"""Standard deviation of the factors' entries at the start, as in the authors' code."""
_EPS = 1e-5
"""What the authors' code adds to the start rank that the update is divided by."""


class Adalora(Method):
    """AdaLoRA (Zhang et al. 2023; reference section 2.3): ``W0 + s B diag(c) A``, kept near a singular value
    decomposition by a penalty, of which the triplets of the least importance are masked.

    Args:
        rank: `rT`, mean final rank of a projection.
        start_rank: `r0`; None means ``ceil(1.5 * rank)``.
        alpha: the update is scaled by ``s = alpha / (start_rank + 1e-5)``, for good.
        dropout: probability for the adapters' input.
        warmup_fraction, final_fraction: shares of the steps before the first mask and after the freeze.
        prune_interval: steps between events.
        orthogonality_weight: of the penalty; 0 turns it off.
        orthogonality_scale: ``"published"`` is the mean of the norms over all matrices (the authors' code), ``"paper"``
            the sum of their squares (equation 4).
        sensitivity_beta, uncertainty_beta: decays of the two averages of importance.
        compact: whether tensors shrink at the freeze. The penalty is one over what is in memory: masked triplets stay
            in it to the end (as in the authors' code), those that left are gone from it.
    """

    name = "adalora"
    fuses = True
    packs = True
    announces = True
    scored_by = "sensitivity of the loss times its uncertainty, of its gate and mean ones of its vectors"

    def __init__(
        self,
        *,
        rank: int,
        start_rank: int | None,
        alpha: float,
        dropout: float,
        warmup_fraction: float,
        final_fraction: float,
        prune_interval: int,
        orthogonality_weight: float,
        orthogonality_scale: Literal["published", "paper"],
        sensitivity_beta: float,
        uncertainty_beta: float,
        compact: bool,
    ) -> None:
        self.rank = rank
        self.start_rank = ceil(1.5 * rank) if start_rank is None else start_rank
        self.scaling = alpha / (self.start_rank + _EPS)
        self.dropout = dropout
        self.warmup_fraction, self.final_fraction = warmup_fraction, final_fraction
        self.prune_interval = prune_interval
        self.orthogonality_weight = orthogonality_weight
        self.orthogonality_squared = orthogonality_scale == "paper"
        self.betas = sensitivity_beta, uncertainty_beta
        self.compact = compact

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> AdaloraSchedule:
        """The schedule of a run of `total_steps` over `sites`; raises BudgetError."""
        return AdaloraSchedule.plan(
            total_steps=total_steps,
            projections=len(sites),
            start_rank=self.start_rank,
            rank=self.rank,
            warmup_fraction=self.warmup_fraction,
            final_fraction=self.final_fraction,
            interval=self.prune_interval,
        )

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.start_rank for site in sites}

    def place(self, model: nn.Module) -> None:
        """Wraps every projection; `A` and `B` are drawn in the order of the sites, the gates begin at zero."""
        sites = self.sites
        assert sites, "nothing to adapt"
        if self.schedule is not None:
            check_one_device(sites)
        self._adapters = Adapters(model, {site.name: self._wrapped(site) for site in sites})
        self._selection = Selection(self._adapters, sites, self.start_rank, compact=self.compact)
        self._sensitivity: Sensitivity | None = None  # of a run, until its freeze
        self._scores_are_old = False
        self._stacks: list[Stack] = []
        self._grouping = 0  # the latest that these follow

    def _wrapped(self, site: Site) -> AdaptedProjection:
        d_out, d_in = site.shape
        dtype, rank = trained_type(weight_of(site.module).dtype), self.start_rank
        A, B = torch.empty(rank, d_in, dtype=dtype), torch.empty(d_out, rank, dtype=dtype)
        for factor in (A, B):
            factor.normal_(0, _STD, generator=self.generator)
        return AdaptedProjection(site.module, A, B, A.new_zeros(rank), scaling=self.scaling, dropout=self.dropout)

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    @property
    def schedule(self) -> AdaloraSchedule | None:
        """That of the training it was attached for; None if it was attached for evaluation only."""
        assert self._schedule is None or isinstance(self._schedule, AdaloraSchedule)
        return self._schedule

    # -- once per step -------------------------------------------------------------------------------------------------

    def begin_step(self, step: int, learning_rate: float) -> None:
        """Before the step of the freeze the last scores are taken: that step is none of importance's."""
        schedule = self.schedule
        assert schedule is not None, "attach with a schedule before training"
        if self.frozen:
            return
        self._followed()
        if step == schedule.freeze_step:
            self._score()
        else:
            self._scores_are_old = True

    def _followed(self) -> Sensitivity:
        if self._sensitivity is None:
            self._sensitivity = Sensitivity(self._adapters, *self.betas)
        return self._sensitivity

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """See `Adapters.training_pass`."""
        return self._adapters.training_pass(dtype)

    @torch.no_grad()
    def adjust_gradients(self) -> torch.Tensor | None:
        """Adds the gradient of the penalty, once and in closed form.

        Returns:
            The penalty's part of the loss, on the device; None while it is off.
        """
        if not self.orthogonality_weight:
            return None
        groups = self._selection.groups()
        if self._grouping != self._adapters.groupings:
            self._stacks = [Stack([layer.rank for layer in group.layers], group.A) for group in groups]
            self._grouping = self._adapters.groupings
        # of a projection that lost all its triplets the two norms are 0
        matrices = 1 if self.orthogonality_squared else 2 * len(self.sites)
        weight, values = self.orthogonality_weight / matrices, []
        for group, stack in zip(groups, self._stacks, strict=True):
            grad_A, grad_B_t, _ = group.take_gradients()
            for gradient, factor in ((grad_A, group.A), (grad_B_t, group.B_t)):
                values.append(stack.add_gradient(gradient, factor, weight, squared=self.orthogonality_squared))
        return torch.stack(values).sum()

    @torch.no_grad()
    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """The importance of every entry, by the weights after the step and the gradients it was made with; after the
        freeze the permanent mask.
        """
        if not self.frozen:
            self._followed().follow(skipped)
        elif self._selection.masked:
            self._selection.apply()

    @torch.no_grad()
    def advance(self, step: int) -> StepReport:
        """At an event the selection; at the freeze the permanent mask or compaction.

        Raises:
            DivergedError: an event finds scores that are not finite; nothing is changed.
        """
        schedule = self.schedule
        assert schedule is not None, "attach with a schedule before training"
        if not self.frozen and schedule.is_event(step):
            self._score()
        report = self._selection.advance(step, schedule)
        if report.frozen:
            self._sensitivity = None
        return report

    @torch.no_grad()
    def _score(self) -> None:
        """Brings the scores up to date. Only here are they computed: importance follows every step, scores are asked
        for at events and by whoever looks.
        """
        if self._scores_are_old:
            assert self._sensitivity is not None
            scores = self._sensitivity.scores()
            self._selection.groups()  # follows a model that was moved since
            self._selection.scores.copy_(self._selection.in_order(scores))
            self._scores_are_old = False

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        return self._selection.size(self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        self._score()
        return self._selection.allocation()

    @property
    def frozen(self) -> bool:
        return self._selection.frozen

    def to_lora(self) -> dict[str, LoraFactors]:
        return self._selection.to_lora()

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        self._score()
        return self._selection.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._selection.load_state_dict(state)

    def training_state(self) -> dict[str, torch.Tensor]:
        """The averages of importance, until the freeze."""
        return {} if self.frozen else self._followed().state_dict()

    def load_training_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if self.frozen:
            super().load_training_state(state)
        else:
            self._followed().load_state_dict(state)
