"""DoRA behind the contract of `dora_cli.methods.base`: attach, regularise, score, prune, freeze, compact."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Literal

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError, DivergedError, ProjectionError
from dora_cli.methods.base import LoraFactors, ProjectionAllocation, Replacement, Schedule, Shape, StepReport
from dora_cli.methods.dora import importance
from dora_cli.methods.dora.allocator import select
from dora_cli.methods.dora.regulariser import variance_gradient_for
from dora_cli.methods.dora.schedule import Curve, DoraSchedule
from dora_cli.methods.dora.start import draw
from dora_cli.methods.linear import shape_of, swap_modules, trained_type, weight_of
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.lean import LeanPass
from dora_cli.printable import shown


class Dora:
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
        start_rank: int | None = None,
        alpha: float = 8.0,
        dropout: float = 0.1,
        ema_beta: float = 0.9,
        warmup_fraction: float = 0.15,
        final_fraction: float = 0.5,
        prune_interval: int = 10,
        curve: Curve = "published",
        dem_weight: float = 0.5,
        dem_scale: Literal["published", "paper"] = "published",
        dem_until: Literal["freeze", "end"] = "freeze",
        compact: bool = True,
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
        self._schedule: Schedule | None = None
        self._last_step: int | None = 0
        self._frozen = False
        self._compacted = False

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, shapes: Mapping[str, Shape]) -> DoraSchedule:
        """The schedule of a run of `total_steps` over projections of these `shapes`; raises BudgetError."""
        schedule = DoraSchedule.plan(
            total_steps=total_steps,
            projections=len(shapes),
            start_rank=self.start_rank,
            rank=self.rank,
            warmup_fraction=self.warmup_fraction,
            final_fraction=self.final_fraction,
            interval=self.prune_interval,
            curve=self.curve,
        )
        thin = [f"{name} ({shape[0]} x {shape[1]})" for name, shape in shapes.items() if min(shape) < 2]
        if thin:
            raise BudgetError(
                f"projections need at least 2 x 2 to be adapted; leave these out of method.targets: {', '.join(thin)}"
            )
        return schedule

    def attach(self, model: nn.Module, projections: Mapping[str, nn.Module], schedule: Schedule | None = None) -> None:
        """Wraps every projection of `model`.

        Draws `A` and `B` from torch's global generator, in the order of `projections`.
        """
        assert projections, "nothing to adapt"
        devices = {str(parameter.device) for module in projections.values() for parameter in module.parameters()}
        if schedule is not None and len(devices) > 1:
            raise ProjectionError(
                f"the projections are spread over {', '.join(sorted(devices))}, but ranks are chosen among all of "
                "them on one device; load the model for training without a device_map"
            )
        self._model = model
        self._schedule = schedule
        self._names = list(projections)
        self._shapes = {name: shape_of(module) for name, module in projections.items()}
        self._layers: dict[str, AdaptedProjection] = {
            name: AdaptedProjection(
                module,
                *draw(
                    *shape_of(module), self.start_rank, trained_type(weight_of(module).dtype), torch.default_generator
                ),
                scaling=self.scaling,
                dropout=self.dropout,
            )
            for name, module in projections.items()
        }
        for module in projections.values():
            module.requires_grad_(False)
        swap_modules(model, {layer.base: layer for layer in self._layers.values()})
        first = self._layers[self._names[0]].gates
        self._scores = torch.zeros(len(projections), self.start_rank, dtype=first.dtype, device=first.device)
        self._keep = torch.ones_like(self._scores, dtype=torch.bool)
        self._live = self._keep.numel()
        self._frozen = self._compacted = False
        self._last_step = 0
        self._regroup()

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self._layers.values() for parameter in (layer.A, layer.B, layer.gates)]

    def _regroup(self) -> None:
        """Puts the components of all projections of a shape together; again after every change of ranks."""
        # By device and type too: a model for evaluation may be spread over several.
        shapes: dict[tuple[Shape, torch.device, torch.dtype], list[int]] = defaultdict(list)
        for row, name in enumerate(self._names):
            if name in self._layers:
                gates = self._layers[name].gates
                shapes[self._shapes[name], gates.device, gates.dtype].append(row)
        if self._layers:
            device = next(iter(self._layers.values())).gates.device
            self._scores, self._keep = self._scores.to(device), self._keep.to(device)
        self._groups = [Components([self._layers[self._names[row]] for row in rows]) for rows in shapes.values()]
        order = [row for rows in shapes.values() for row in rows]
        # position among all projections of each grouped one
        self._order = torch.tensor(order, device=self._scores.device)
        self._lean: LeanPass | None = None

    def _grouped(self) -> list[Components]:
        """All components by shape. The model may have been moved or copied since they were put together."""
        if not all(group.holds for group in self._groups):
            self._regroup()
        return self._groups

    # -- once per step -------------------------------------------------------------------------------------------------

    @contextmanager
    def training_pass(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """One forward and backward pass with less work than autograd's own way, up to rounding the same (see
        `LeanPass`).

        The parameters' gradients are complete when it ends, not before: whoever sums them over processes does it
        afterwards, and DistributedDataParallel, which sums within `backward`, needs the plain pass. Within it only
        `backward` gives gradients, not `torch.autograd.grad`.

        Args:
            dtype: autocast's, where autocast is entered within; None means that of the autocast around it, or else the
                factors' own.
        """
        groups = self._grouped()
        if not groups:  # every projection lost all its components
            yield
            return
        if dtype is None:
            device = groups[0].A.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else groups[0].A.dtype
        if self._lean is None or self._lean.dtype != dtype:
            self._lean = LeanPass(self._model, groups, self.scaling, dtype)
        lean = self._lean
        if self.dropout and not lean.kernels.draws_alike and self._computes_twice():
            yield
            return
        try:
            lean.begin()
            yield
        except BaseException:
            self._lean = None  # with the gradients that it had in part
            raise
        finally:
            lean.end()
        lean.finish()

    def _computes_twice(self) -> bool:
        """Whether gradient checkpointing computes forward passes again in the backward pass, as
        transformers notes it.
        """
        return any(module.__dict__.get("gradient_checkpointing") for module in self._model.modules())

    @torch.no_grad()
    def adjust_gradients(self, step: int) -> torch.Tensor | None:
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
            replaced.extend(self._shrink(name, row.nonzero().squeeze(1)))
        self._compacted = True
        self._regroup()
        return replaced

    def _shrink(self, name: str, kept: torch.Tensor) -> list[Replacement]:
        layer = self._layers[name]
        if len(kept) == layer.rank:
            return []
        index = kept.to(layer.A.device)
        replaced = []
        for attribute, dimension in (("A", 0), ("B", 1), ("c", 0)):
            old: nn.Parameter = getattr(layer, attribute)
            new = nn.Parameter(old.detach().index_select(dimension, index)) if len(kept) else None
            if new is not None:
                setattr(layer, attribute, new)
            replaced.append(Replacement(old, new, dimension, index))
        if not len(kept):
            swap_modules(self._model, {layer: layer.base})
            del self._layers[name]
        return replaced

    # -- what came of it -----------------------------------------------------------------------------------------------

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Computes with merged weights inside; the base weights themselves are never touched."""
        layers = list(self._layers.values())
        try:
            for layer in layers:
                layer.fold()
            yield
        finally:
            for layer in layers:
                layer.unfold()

    def merge(self) -> None:
        """Puts each base module, with the update in its weight, in the place of its adapter; in a half type the sum is
        rounded once.
        """
        swap_modules(self._model, {layer: layer.merged() for layer in self._layers.values()})
        self._lean = None  # with its copies of the base

    def allocation(self) -> list[ProjectionAllocation]:
        """Ranks in the order of attachment. Waits for the device."""
        ranks, scores = self._keep.sum(1).tolist(), self._scores.tolist()
        return [
            ProjectionAllocation(name, self._shapes[name], self.start_rank, rank, tuple(row))
            for name, rank, row in zip(self._names, ranks, scores, strict=True)
        ]

    @property
    def frozen(self) -> bool:
        """Whether ranks are final."""
        return self._frozen

    def to_lora(self) -> dict[str, LoraFactors]:
        """``A`` and ``s B diag(c)`` of every projection that still has components; before the freeze,
        of all of them.
        """
        factors = {}
        live = self._keep if self._frozen and not self._compacted else None  # masked components count as gone
        for row, name in enumerate(self._names):
            if name not in self._layers:
                continue
            layer = self._layers[name]
            A, B = layer.A.detach(), layer.factor().detach()
            if live is not None:
                A, B = A[live[row]], B[:, live[row]]
            if A.shape[0]:
                # A copy: the factors must not follow the parameters when training goes on.
                factors[name] = LoraFactors(
                    A.to("cpu", torch.float32, copy=True).contiguous(), B.to("cpu", torch.float32).contiguous()
                )
        return factors

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Factors and gates per projection (``NAME.A``, ``.B``, ``.c``), scores, the keep mask, and whether frozen and
        compacted.
        """
        state = {
            f"{name}.{key}": getattr(layer, key).detach().contiguous()
            for name, layer in self._layers.items()
            for key in ("A", "B", "c")
        }
        flags = {"frozen": torch.tensor(self._frozen), "compacted": torch.tensor(self._compacted)}
        return state | {"scores": self._scores, "keep": self._keep} | flags

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict` into a freshly attached method, shrinking ranks first. Raises CheckpointError on the
        first misfit.

        A masked state is compacted on the way in where `compact` asks for it; a compacted one stays so.
        """
        assert not self._frozen and len(self._layers) == len(self._names), "load into a freshly attached method"
        flag = torch.tensor(True)
        for key, like in (("scores", self._scores), ("keep", self._keep), ("frozen", flag), ("compacted", flag)):
            _check(key, state, like.shape, like.dtype)
        frozen, compacted = bool(state["frozen"]), bool(state["compacted"])
        if compacted and not frozen:
            raise CheckpointError("the checkpoint calls itself compacted but not frozen; it is damaged")
        rows = state["keep"].cpu()
        expected = {"scores", "keep", "frozen", "compacted"}
        for name, row in zip(self._names, rows, strict=True):
            rank = int(row.sum()) if compacted else self.start_rank
            d_out, d_in = self._shapes[name]
            for suffix, shape in (("A", (rank, d_in)), ("B", (d_out, rank)), ("c", (rank,))) if rank else ():
                _check(f"{name}.{suffix}", state, shape, self._layers[name].gates.dtype)
                expected.add(f"{name}.{suffix}")
        if unknown := state.keys() - expected:
            raise CheckpointError(
                f"tensor {shown(min(unknown))} is in the checkpoint, but this model, recipe and keep mask have no "
                "place for it"
            )
        for name, row in zip(self._names, rows, strict=True):
            if compacted:
                self._shrink(name, row.nonzero().squeeze(1))
            if name in self._layers:
                for suffix in ("A", "B", "c"):
                    getattr(self._layers[name], suffix).copy_(state[f"{name}.{suffix}"])
        self._scores.copy_(state["scores"])
        self._keep.copy_(state["keep"])
        self._live = int(rows.sum())
        self._last_step = None  # a state does not say where in its run it was taken
        self._frozen, self._compacted = frozen, compacted
        self._regroup()
        if frozen and self.compact and not compacted:
            self._compact()


def _check(key: str, state: Mapping[str, torch.Tensor], shape: Sequence[int], dtype: torch.dtype) -> None:
    tensor = state.get(key)
    if tensor is None:
        raise CheckpointError(f"tensor {key} is missing from the checkpoint")
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype:
        raise CheckpointError(
            f"tensor {key} is {tensor.dtype} {tuple(tensor.shape)} in the checkpoint; this model and recipe need "
            f"{dtype} {tuple(shape)}"
        )
