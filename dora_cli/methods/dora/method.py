"""DoRA behind the contract of `dora_cli.methods.base`: attach, regularise, score, prune, freeze, compact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Literal

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError, DivergedError, ProjectionError
from dora_cli.methods.base import (
    Allocation,
    LoraFactors,
    Method,
    Replacement,
    Site,
    Size,
    StepReport,
    check_tensor,
)
from dora_cli.methods.dora import importance
from dora_cli.methods.dora.allocator import select
from dora_cli.methods.dora.regulariser import variance_gradient_for
from dora_cli.methods.dora.schedule import Curve, DoraSchedule
from dora_cli.methods.dora.start import draw
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.printable import shown


class Dora(Method):
    """Dynamic Low-Rank Adaptation (Mao et al. 2024; reference section 1).

    Args:
        rank: `rT`, mean final rank of a projection.
        start_rank: `r0`; None means ``ceil(1.5 * rank)``.
        alpha: the update is scaled by ``alpha / start_rank``, for good.
        dropout: probability for the adapters' input.
        ema_beta: smoothing of the scores.
        warmup_fraction, final_fraction: shares of the steps before pruning and after the freeze.
        prune_interval: steps between events.
        curve: see `DoraSchedule`.
        dem_weight: `eta`, weight of the regulariser; 0 turns it off.
        dem_scale: ``"published"`` divides the sum of variances by ``2 M r0`` (the code), ``"paper"`` by ``M r0``
            (equation 10).
        dem_until: ``"freeze"`` (the code) or ``"end"`` (the paper's algorithm 1).
        compact: whether tensors shrink at the freeze. It changes memory and speed, not a number.
    """

    name = "dora"

    def __init__(
        self,
        *,
        rank: int,
        start_rank: int | None,
        alpha: float,
        dropout: float,
        ema_beta: float,
        warmup_fraction: float,
        final_fraction: float,
        prune_interval: int,
        curve: Curve,
        dem_weight: float,
        dem_scale: Literal["published", "paper"],
        dem_until: Literal["freeze", "end"],
        compact: bool,
    ) -> None:
        self.rank = rank
        self.start_rank = ceil(1.5 * rank) if start_rank is None else start_rank
        self.scaling = alpha / self.start_rank if self.start_rank > 0 else 0.0  # `plan` refuses such a rank
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
        self._last_step: int | None = 0
        self._frozen = False
        self._compacted = False

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
        )
        thin = [f"{site.name} ({site.shape[0]} x {site.shape[1]})" for site in sites if min(site.shape) < 2]
        if thin:
            raise BudgetError(
                f"projections need at least 2 x 2 to be adapted; leave these out of method.targets: {', '.join(thin)}"
            )
        return schedule

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.start_rank for site in sites}

    def place(self, model: nn.Module) -> None:
        """Wraps every projection; `A` and `B` are drawn in the order of the sites."""
        sites = self.sites
        assert sites, "nothing to adapt"
        devices = {str(parameter.device) for site in sites for parameter in site.module.parameters()}
        if self.schedule is not None and len(devices) > 1:
            raise ProjectionError(
                f"the projections are spread over {', '.join(sorted(devices))}, but ranks are chosen among all of "
                "them on one device; load the model for training without a device_map"
            )
        self._names = [site.name for site in sites]
        self._shapes = {site.name: site.shape for site in sites}
        self._adapters = Adapters(model, {site.name: self._wrapped(site) for site in sites})
        first = self._adapters.layers[self._names[0]].gates
        self._scores = torch.zeros(len(sites), self.start_rank, dtype=first.dtype, device=first.device)
        self._keep = torch.ones_like(self._scores, dtype=torch.bool)
        self._live = self._keep.numel()
        self._frozen = self._compacted = False
        self._last_step = 0
        self._grouping = 0  # the latest that scores and mask follow
        self._grouped()

    def _wrapped(self, site: Site) -> AdaptedProjection:
        dtype = trained_type(weight_of(site.module).dtype)
        start = draw(*site.shape, self.start_rank, dtype, self.generator)
        return AdaptedProjection(site.module, *start, scaling=self.scaling, dropout=self.dropout)

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def _grouped(self) -> list[Components]:
        """All components by shape; where they were put together anew, scores and mask follow them."""
        groups = self._adapters.groups()
        if groups and self._grouping != self._adapters.groupings:
            device = groups[0].A.device
            self._scores, self._keep = self._scores.to(device), self._keep.to(device)
            place = {name: row for row, name in enumerate(self._names)}
            # position among all projections of each grouped one
            self._order = torch.tensor([place[name] for name in self._adapters.order], device=device)
            self._grouping = self._adapters.groupings
        return groups

    # -- once per step -------------------------------------------------------------------------------------------------

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """See `Adapters.training_pass`."""
        return self._adapters.training_pass(dtype)

    @torch.no_grad()
    def adjust_gradients(self) -> torch.Tensor | None:
        """Adds the gradient of DEM, once and in closed form; after the freeze, clears the gradients of masked
        components.

        Clearing comes before clipping, and covers the factors as well as the gates, so that masked and compacted
        training clip alike.

        Returns:
            DEM's part of the loss, ``eta * R``, on the device; None while it is off.
        """
        regularised = bool(self.dem_weight) and (self.dem_until == "end" or not self._frozen)
        masked = self._frozen and not self._compacted
        if not regularised and not masked:
            return None
        weight = self.dem_weight / (self.dem_divisor * len(self._names) * self.start_rank)
        variances = []
        groups = self._grouped()
        add_variance_gradient = variance_gradient_for(self._scores.device, self._scores.dtype)
        for group, mask in zip(groups, self._masks() if masked else [None] * len(groups), strict=True):
            grad_A, grad_B_t, grad_c = group.take_gradients()
            assert grad_c is not None
            if regularised:
                for gradient, factor in ((grad_A, group.A), (grad_B_t, group.B_t)):
                    variance = add_variance_gradient(gradient, factor, weight)
                    # masked components count as gone, as they are after compaction
                    variances.append(variance if mask is None else variance * mask)
            if mask is not None:
                torch._foreach_mul_([grad_A, grad_B_t, grad_c], [mask[:, None], mask[:, None], mask])
        return torch.cat(variances).sum() * weight if regularised else None

    def _masks(self) -> list[torch.Tensor]:
        """Which rows of each group live, as numbers."""
        assert not self._compacted, "rows are those of the start"
        groups = self._grouped()
        rows = self._keep[self._order].to(groups[0].gates.dtype).view(-1)
        return list(torch.split(rows, [len(group.A) for group in groups]))

    @torch.no_grad()
    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """Scores and their EMA; after the freeze the permanent mask.

        Where `skipped` is true, scores stay as they were.
        """
        if self._frozen:
            if not self._compacted:
                self._apply_keep()
            return
        scores = importance.ema(self._scores, self.scores(), self.ema_beta)
        self._scores.copy_(scores if skipped is None else torch.where(skipped, self._scores, scores))

    @torch.no_grad()
    def advance(self, step: int) -> StepReport:
        """At an event the selection; at the freeze the permanent mask or compaction.

        Raises:
            DivergedError: an event finds scores that are not finite; nothing is changed.
        """
        schedule = self._schedule
        assert isinstance(schedule, DoraSchedule), "attach with a schedule before training"
        self._count(step)
        phase, budget = schedule.phase(step), schedule.budget(step)
        if self._frozen or not schedule.is_event(step):
            return StepReport(phase, budget, self._live)
        keep = select(self._scores, budget)
        live, finite = torch.stack([keep.sum(), self._scores.isfinite().all()]).tolist()
        if not finite:
            raise DivergedError(
                f"training diverged: scores after step {step:,} are not finite, so no ranks can be chosen by them; "
                "lower the learning rate"
            )
        self._keep.copy_(keep)
        self._live = int(live)
        self._apply_keep()
        self._frozen = step == schedule.freeze_step
        replaced = self._compact() if self._frozen and self.compact else ()
        return StepReport(phase, budget, self._live, event=True, frozen=self._frozen, replaced=replaced)

    def after_step(self, step: int, skipped: torch.Tensor | None = None) -> StepReport:
        """`observe`, then `advance`: all that follows the optimiser's step, for a loop of the user's own."""
        self._check_turn(step)
        self.observe(skipped)
        return self.advance(step)

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
        """Scores of the present weights, not averaged: ``(projections, r0)``. Only before the freeze."""
        groups, rank = self._grouped(), self.start_rank
        grams = [
            importance.gram(*(rows.view(len(group.layers), rank, -1) for rows in (group.A, group.B_t)))
            for group in groups
        ]
        c = torch.cat([group.gates for group in groups]).view(-1, rank)
        scores = torch.empty_like(self._scores)
        scores[self._order] = importance.scores_of_gram(torch.cat(grams), c)
        return scores

    def _apply_keep(self) -> None:
        for group, mask in zip(self._grouped(), self._masks(), strict=True):
            group.gates.mul_(mask)

    # -- ranks that really shrink --------------------------------------------------------------------------------------

    def _compact(self) -> list[Replacement]:
        """Drops masked components from memory; a projection without any becomes its base module again.

        Waits for the device once.
        """
        replaced: list[Replacement] = []
        keep = self._keep.cpu()
        for name, row in zip(self._names, keep, strict=True):
            replaced.extend(self._adapters.shrink(name, row.nonzero().squeeze(1)))
        self._compacted = True
        self._adapters.regroup()
        return replaced

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        """Stored are `A` and `B` of live components, without gates (reference section 1.8); the gates train too."""
        stored = sum(allocation.rank * sum(allocation.shape) for allocation in self.allocation())
        trained = sum(self.start_rank * (sum(shape) + 1) for shape in self._shapes.values())
        return Size(stored, trained, self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        """Ranks in the order of attachment. Waits for the device."""
        ranks, scores = self._keep.sum(1).tolist(), self._scores.tolist()
        return [
            Allocation(name, self._shapes[name], self.start_rank, rank, tuple(row))
            for name, rank, row in zip(self._names, ranks, scores, strict=True)
        ]

    @property
    def frozen(self) -> bool:
        """Whether ranks are final."""
        return self._frozen

    def to_lora(self) -> dict[str, LoraFactors]:
        """``A`` and ``s B diag(c)`` of every projection that has components left; before the freeze, of all of them."""
        masked = self._frozen and not self._compacted  # masked components count as gone
        live = dict(zip(self._names, self._keep, strict=True)) if masked else None
        return self._adapters.to_lora(live)

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Factors and gates per projection (``NAME.A``, ``.B``, ``.c``), scores, the keep mask, and whether frozen and
        compacted.
        """
        state = self._adapters.state_dict()
        flags = {"frozen": torch.tensor(self._frozen), "compacted": torch.tensor(self._compacted)}
        return state | {"scores": self._scores, "keep": self._keep} | flags

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict` into a freshly attached method, shrinking ranks first. Raises CheckpointError on the
        first misfit.

        A masked state is compacted on the way in where `compact` asks for it; a compacted one stays so.
        """
        fresh = not self._frozen and len(self._adapters.layers) == len(self._names)
        assert fresh, "load into a freshly attached method"
        flag = torch.tensor(True)
        for key, like in (("scores", self._scores), ("keep", self._keep), ("frozen", flag), ("compacted", flag)):
            check_tensor(key, state, like.shape, like.dtype)
        frozen, compacted = bool(state["frozen"]), bool(state["compacted"])
        if compacted and not frozen:
            raise CheckpointError("the checkpoint calls itself compacted but not frozen; it is damaged")
        rows = state["keep"].cpu()
        expected = {"scores", "keep", "frozen", "compacted"}
        for name, row in zip(self._names, rows, strict=True):
            rank = int(row.sum()) if compacted else self.start_rank
            d_out, d_in = self._shapes[name]
            for suffix, shape in (("A", (rank, d_in)), ("B", (d_out, rank)), ("c", (rank,))) if rank else ():
                check_tensor(f"{name}.{suffix}", state, shape, self._adapters.layers[name].gates.dtype)
                expected.add(f"{name}.{suffix}")
        if unknown := state.keys() - expected:
            raise CheckpointError(
                f"tensor {shown(min(unknown))} is in the checkpoint, but this model, recipe and keep mask have no "
                "place for it"
            )
        for name, row in zip(self._names, rows, strict=True):
            if compacted:
                self._adapters.shrink(name, row.nonzero().squeeze(1))
            if name in self._adapters.layers:
                for suffix in ("A", "B", "c"):
                    getattr(self._adapters.layers[name], suffix).copy_(state[f"{name}.{suffix}"])
        self._scores.copy_(state["scores"])
        self._keep.copy_(state["keep"])
        self._live = int(rows.sum())
        self._last_step = None  # a state does not say where in its run it was taken
        self._frozen, self._compacted = frozen, compacted
        self._adapters.regroup()
        self._grouped()
        if frozen and self.compact and not compacted:
            self._compact()
