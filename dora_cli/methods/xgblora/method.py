"""XGBLoRA behind the contract: rank-1 boosters on random blocks, one after the other, each on top of those before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Allocation, LoraFactors, Method, Site, Size, StepReport, check_tensor
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.starts import lora_A
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.xgblora.schedule import BoostingSchedule
from dora_cli.methods.xgblora.subsets import blocks_of, draw
from dora_cli.printable import shown


class Xgblora(Method):
    """XGBLoRA (Zhang et al. 2024; reference section 3.7): gradient boosting of rank-1 adapters.

    Booster `t` adapts the projections of `L_s` random blocks with one component each, ``W + s b a^T`` with ``a ~
    U(+-1/sqrt(d_in))`` and ``b = 0`` at the start. It trains on the model as its predecessors have left it, is tied as
    ``step_size s b a^T`` and never trains again; the next one begins, and with it the optimiser's state. The loss gets
    ``norm_penalty / 2`` times the sum of ``||a||^2 + ||b||^2`` over the booster that trains.

    Args:
        rank: the budget, as components a projection on average; it says how many boosters there are.
        layers: `L_s`, blocks of a booster; None for a third of them, rounded up.
        alpha: `s`, the scale of a component.
        step_size: of every booster when it is tied.
        norm_penalty: weight of the penalty.
        dropout: probability for the input of the booster that trains.
        restart_learning_rate: whether the learning rate's schedule starts anew with each booster.
    """

    name = "xgblora"
    fuses = True
    packs = True
    announces = True
    plans_by_blocks = True

    def __init__(
        self,
        *,
        rank: int,
        layers: int | None,
        alpha: float,
        step_size: float,
        norm_penalty: float,
        dropout: float,
        restart_learning_rate: bool,
    ) -> None:
        self.rank, self.layers = rank, layers
        self.scaling, self.step_size = alpha, step_size
        self.norm_penalty, self.dropout = norm_penalty, dropout
        self.restart_learning_rate = restart_learning_rate

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> BoostingSchedule:
        return BoostingSchedule.of(
            total_steps, sites, rank=self.rank, layers=self.layers, anew=self.restart_learning_rate
        )

    def place(self, model: nn.Module) -> None:
        """Wraps every projection. The subsets of all boosters are drawn first, then the first booster; the others when
        they begin.
        """
        assert self.sites, "nothing to adapt"
        self._blocks = blocks_of(self.sites)
        schedule = self.schedule
        self._subsets = torch.zeros(0, max(self._blocks) + 1, dtype=torch.bool)
        if schedule is not None:
            self._subsets = draw(schedule.kinds, schedule.planned, self.generator)
        self._tied = 0  # boosters
        fresh = self._next_booster() if schedule is not None else {}
        layers = {site.name: self._wrapped(site, fresh.get(site.name)) for site in self.sites}
        self._adapters = Adapters(model, layers)

    def _wrapped(self, site: Site, factors: tuple[torch.Tensor, torch.Tensor] | None) -> AdaptedProjection:
        A, B = (torch.empty(0, site.shape[1]), torch.empty(site.shape[0], 0)) if factors is None else factors
        return AdaptedProjection(site.module, A, B, scaling=self.scaling, dropout=self.dropout)

    def _next_booster(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """`A` and `B` of the booster after those that are tied, drawn in the order of the sites; none after the
        last.
        """
        if self._tied == len(self._subsets):
            return {}
        found = {}
        for site in self._sites_of(self._tied):
            d_out, d_in = site.shape
            dtype = trained_type(weight_of(site.module).dtype)
            A = lora_A(1, d_in, dtype, self.generator)
            found[site.name] = A, A.new_zeros(d_out, 1)
        return found

    def _sites_of(self, booster: int) -> list[Site]:
        """What a booster, from 0, adapts."""
        return [site for site, block in zip(self.sites, self._blocks, strict=True) if self._subsets[booster, block]]

    @property
    def schedule(self) -> BoostingSchedule | None:
        """That of the training it was attached for; None if it was attached for evaluation only."""
        assert self._schedule is None or isinstance(self._schedule, BoostingSchedule)
        return self._schedule

    def parameters(self) -> list[nn.Parameter]:
        """Those of the booster that trains."""
        return self._adapters.parameters()

    # -- once per step -------------------------------------------------------------------------------------------------

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """See `Adapters.training_pass`."""
        return self._adapters.training_pass(dtype)

    @torch.no_grad()
    def adjust_gradients(self) -> torch.Tensor | None:
        """Adds the gradient of the penalty, ``norm_penalty`` times the factors.

        Returns:
            The penalty, on the device; None where there is none.
        """
        groups = [group for group in self._adapters.groups() if len(group.A)]
        if not self.norm_penalty or not groups:
            return None
        squares = []
        for group in groups:
            grad_A, grad_B_t, _ = group.take_gradients()
            for gradient, factor in ((grad_A, group.A), (grad_B_t, group.B_t)):
                gradient.add_(factor, alpha=self.norm_penalty)
                squares.append(factor.square().sum())
        return torch.stack(squares).sum() * (self.norm_penalty / 2)

    def advance(self, step: int) -> StepReport:
        """At an event the booster is tied and the next one begins; after the last step nothing trains but the head."""
        schedule = self.schedule
        assert schedule is not None, "attach with a schedule before training"
        phase, budget = schedule.phase(step), schedule.budget(step)
        if self.frozen or not schedule.is_event(step):
            return StepReport(phase, budget, budget)
        self._tied += 1
        self._adapters.tie(self._next_booster(), factor=self.step_size)
        return StepReport(phase, budget, budget, event=True, frozen=self.frozen, restarted=self.head, regrouped=True)

    @property
    def frozen(self) -> bool:
        """Whether all boosters are tied."""
        return self._tied == len(self._subsets)

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        """Stored are all boosters, of a run also those to come; of them one trains at a time."""
        if self.schedule is not None:
            return Size(sum(self.schedule.sizes), max(self.schedule.sizes), self._stored_bytes())
        stored = sum(allocation.rank * sum(allocation.shape) for allocation in self.allocation())
        boosters = range(len(self._subsets))
        trained = max((sum(sum(site.shape) for site in self._sites_of(booster)) for booster in boosters), default=0)
        return Size(stored, trained, self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        """Ranks are the boosters that have a projection, the one that trains included. Start ranks are 0: which
        projections the first one has differs between seeds.
        """
        found = []
        for site, block in zip(self.sites, self._blocks, strict=True):
            links = tuple((self._subsets[: self._tied + 1, block].nonzero().flatten() + 1).tolist())
            found.append(Allocation(site.name, site.shape, 0, len(links), links=links))
        return found

    def to_lora(self) -> dict[str, LoraFactors]:
        """A component for each booster that has the projection; projections that none has are left out."""
        return self._adapters.to_lora()

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tied components per projection (``NAME.tied_A``, ``.tied_B``) and those that train (``.A``, ``.B``); which
        blocks each booster has (``subsets``, boosters x blocks), and how many boosters are ``tied``.
        """
        return self._adapters.state_dict() | {"subsets": self._subsets, "tied": torch.tensor(self._tied)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        assert self._tied == 0, "load into a freshly attached method"
        check_tensor("tied", state, (), torch.int64)
        subsets = state.get("subsets", self._subsets)
        shape = self._subsets.shape if self.schedule is not None else (len(subsets), self._subsets.shape[1])
        check_tensor("subsets", state, shape, torch.bool)
        tied = int(state["tied"])
        if not 0 <= tied <= len(subsets):
            raise CheckpointError(f"the checkpoint says that {tied} of {len(subsets)} boosters are tied; it is damaged")
        own = {key: value for key, value in state.items() if key not in ("subsets", "tied")}
        self._check(own, subsets, tied)
        self._adapters.resize(own)
        self._adapters.load_state_dict(own)
        self._subsets, self._tied = subsets.to("cpu", copy=True), tied

    def _check(self, state: Mapping[str, torch.Tensor], subsets: torch.Tensor, tied: int) -> None:
        """Raises CheckpointError unless every projection has the components that `subsets` says it has by now."""
        expected = set()
        for site, block in zip(self.sites, self._blocks, strict=True):
            (d_out, d_in), dtype = site.shape, trained_type(weight_of(site.module).dtype)
            kept, trains = int(subsets[:tied, block].sum()), int(subsets[tied : tied + 1, block].sum())
            for prefix, rank in (("tied_", kept), ("", trains)):
                for factor, shape in (("A", (rank, d_in)), ("B", (d_out, rank))) if rank else ():
                    check_tensor(f"{site.name}.{prefix}{factor}", state, shape, dtype)
                    expected.add(f"{site.name}.{prefix}{factor}")
        if unknown := state.keys() - expected:
            raise CheckpointError(
                f"tensor {shown(min(unknown))} is in the checkpoint, but with {tied} of {len(subsets)} boosters tied "
                "there is no place for it"
            )
