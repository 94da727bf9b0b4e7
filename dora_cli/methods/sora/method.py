"""SoRA behind the contract: gates that a penalty and a proximal step push to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import (
    Allocation,
    Group,
    LoraFactors,
    Method,
    Replacement,
    Site,
    Size,
    StepReport,
    check_tensor,
)
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.starts import lora_A
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.selection import check_one_device
from dora_cli.methods.sora.schedule import SoraSchedule
from dora_cli.methods.sora.threshold import OPERATORS, Threshold


class Sora(Method):
    """Sparse Low-rank Adaptation (Ding et al. 2023; reference section 2.4): ``W0 + s B diag(g) A``, ``s = alpha / r``.

    At the start ``A ~ U(+-1/sqrt(d_in))``, ``B = 0`` and ``g ~ N(0, 1)``. The loss gets ``lambda mean |g|`` over all
    gates, and after every optimiser step each gate meets the threshold `xi`. A component lives while its gate is not
    zero; one at zero may come back until the last step, after which what is zero leaves memory.

    Args:
        rank: `r`, components of every projection at the start.
        alpha: the update is scaled by ``alpha / rank``, for good.
        dropout: probability for the adapters' input.
        threshold: ``"soft"`` (the paper) or ``"official"`` (the published code), see `dora_cli.methods.sora.threshold`.
        gate_penalty: `lambda`.
        gate_threshold: `xi`.
        gate_learning_rate_ratio: learning rate of the gates over that of all else.
        max_gate_threshold: the sparsifying scheduler: `xi` rises to this in stages. None leaves it as it is.
        threshold_stages: how many there are, the first included.
        first_stage_fraction: share of the steps that the first one has.
    """

    name = "sora"
    fuses = True
    packs = True
    announces = True
    scored_by = "size of its gate"

    def __init__(
        self,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        threshold: Threshold,
        gate_penalty: float,
        gate_threshold: float,
        gate_learning_rate_ratio: float,
        max_gate_threshold: float | None,
        threshold_stages: int,
        first_stage_fraction: float,
    ) -> None:
        self.rank, self.dropout = rank, dropout
        self.scaling = alpha / rank if rank > 0 else 0.0  # `plan` refuses such a rank
        self.gate_penalty, self.gate_learning_rate_ratio = gate_penalty, gate_learning_rate_ratio
        self.gate_threshold, self.max_gate_threshold = gate_threshold, max_gate_threshold
        self.threshold_stages, self.first_stage_fraction = threshold_stages, first_stage_fraction
        self._operator = OPERATORS[threshold]

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> SoraSchedule:
        return SoraSchedule.plan(
            total_steps=total_steps,
            projections=len(sites),
            rank=self.rank,
            threshold=self.gate_threshold,
            max_threshold=self.max_gate_threshold,
            stages=self.threshold_stages,
            first_fraction=self.first_stage_fraction,
        )

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.rank for site in sites}

    def place(self, model: nn.Module) -> None:
        """Wraps every projection; `A` and the gates are drawn in the order of the sites."""
        assert self.sites, "nothing to adapt"
        if self.schedule is not None:
            check_one_device(self.sites)
        self._adapters = Adapters(model, {site.name: self._wrapped(site) for site in self.sites})
        first = self._adapters.layers[self.sites[0].name].gates
        self._xi = torch.zeros((), dtype=first.dtype, device=first.device)
        # which of the start components are in memory
        self._keep = torch.ones(len(self.sites), self.rank, dtype=torch.bool)
        self._live = self._keep.numel()

    def _wrapped(self, site: Site) -> AdaptedProjection:
        d_out, d_in = site.shape
        dtype = trained_type(weight_of(site.module).dtype)
        A = lora_A(self.rank, d_in, dtype, self.generator)
        gates = torch.empty(self.rank, dtype=dtype).normal_(generator=self.generator)
        B = A.new_zeros(d_out, self.rank)
        return AdaptedProjection(site.module, A, B, gates, scaling=self.scaling, dropout=self.dropout)

    @property
    def schedule(self) -> SoraSchedule | None:
        """That of the training it was attached for; None if it was attached for evaluation only."""
        assert self._schedule is None or isinstance(self._schedule, SoraSchedule)
        return self._schedule

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def groups(self) -> list[Group]:
        """Factors and head, then the gates: at their own learning rate, without weight decay."""
        layers = self._adapters.layers.values()
        factors = [parameter for layer in layers for parameter in (layer.A, layer.B)]
        gates = Group([layer.gates for layer in layers], rate=self.gate_learning_rate_ratio, weight_decay=0.0)
        return [Group([*factors, *self.head]), gates]

    # -- once per step -------------------------------------------------------------------------------------------------

    def begin_step(self, step: int, learning_rate: float) -> None:
        """Puts the step's threshold on the device."""
        assert self.schedule is not None, "attach with a schedule before training"
        self._xi = self._xi.to(self._adapters.layers[self._adapters.order[0]].gates.device)
        self._xi.fill_(self.schedule.threshold(step))

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        """See `Adapters.training_pass`."""
        return self._adapters.training_pass(dtype)

    @torch.no_grad()
    def adjust_gradients(self) -> torch.Tensor | None:
        """Adds the gradient of the penalty, ``lambda sign(g) / N`` of `N` gates, where ``sign(0) = 0``.

        Returns:
            The penalty, ``lambda mean |g|``, on the device; None where there is none.
        """
        groups = self._adapters.groups()
        if not self.gate_penalty or not groups:
            return None
        weight = self.gate_penalty / self._keep.numel()
        for group in groups:
            _, _, gradient = group.take_gradients()
            assert gradient is not None
            gradient.add_(group.gates.sign(), alpha=weight)
        return torch.cat([group.gates for group in groups]).abs().sum() * weight

    @torch.no_grad()
    def observe(self, skipped: torch.Tensor | None = None) -> None:
        """The proximal step; where `skipped` is true its threshold is 0, which changes nothing."""
        xi = self._xi if skipped is None else self._xi.masked_fill(skipped, 0.0)
        for group in self._adapters.groups():
            group.gates.copy_(self._operator(group.gates, xi))

    def advance(self, step: int) -> StepReport:
        """At an event counts the gates that are not zero; after the last step the others leave memory."""
        schedule = self.schedule
        assert schedule is not None, "attach with a schedule before training"
        event, replaced = schedule.is_event(step), list[Replacement]()
        if event:
            self._live = self._count()
            if step == schedule.total_steps:
                replaced = self._shrink()
        # no budget, so it is what lives
        return StepReport(schedule.phase(step), self._live, self._live, event=event, replaced=replaced)

    def _shrink(self) -> list[Replacement]:
        """Drops the components whose gates are zero; a projection without any becomes its base module again."""
        replaced: list[Replacement] = []
        gates = self._gates()
        for row, site in zip(self._keep, self.sites, strict=True):
            if (found := gates.get(site.name)) is not None:
                kept = found != 0
                replaced.extend(self._adapters.shrink(site.name, kept.nonzero().squeeze(1)))
                row[row.clone()] = kept
        self._adapters.regroup()
        return replaced

    # -- what came of it -----------------------------------------------------------------------------------------------

    def _gates(self) -> dict[str, torch.Tensor]:
        """The gates of every projection that has components in memory, on the CPU. Waits for the device."""
        gates = [group.gates.detach().cpu() for group in self._adapters.groups()]
        if not gates:  # every projection lost all its components
            return {}
        ranks = [self._adapters.layers[name].rank for name in self._adapters.order]
        return dict(zip(self._adapters.order, torch.split(torch.cat(gates), ranks), strict=True))

    def _count(self) -> int:
        return sum(int(gates.count_nonzero()) for gates in self._gates().values())

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        """Stored are `A` and `B` of live components, without gates; the gates train too."""
        stored = sum(allocation.rank * sum(allocation.shape) for allocation in self.allocation())
        trained = sum(self.rank * (sum(site.shape) + 1) for site in self.sites)
        return Size(stored, trained, self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        """Ranks count the gates that are not zero now; scores are the sizes of the gates. Waits for the device."""
        found, gates = [], self._gates()
        for site, kept in zip(self.sites, self._keep, strict=True):
            scores = torch.zeros(self.rank, dtype=self._xi.dtype)
            if site.name in gates:
                scores[kept] = gates[site.name].abs()
            rank = int(scores.count_nonzero())
            found.append(Allocation(site.name, site.shape, self.rank, rank, tuple(scores.tolist())))
        return found

    def to_lora(self) -> dict[str, LoraFactors]:
        """``A`` and ``s B diag(g)`` of the components whose gates are not zero."""
        return self._adapters.to_lora(
            {name: layer.gates.detach() != 0 for name, layer in self._adapters.layers.items()}
        )

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Factors and gates per projection (``NAME.A``, ``.B``, ``.c``), and which of the start components they are."""
        return self._adapters.state_dict() | {"keep": self._keep}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        assert bool(self._keep.all()), "load into a freshly attached method"
        check_tensor("keep", state, self._keep.shape, self._keep.dtype)
        keep = state["keep"].to("cpu", copy=True)
        kept = {site.name: row.nonzero().squeeze(1) for site, row in zip(self.sites, keep, strict=True)}
        self._adapters.load_state_dict({key: value for key, value in state.items() if key != "keep"}, kept)
        self._keep = keep
        self._live = self._count()

    def training_state(self) -> dict[str, torch.Tensor]:
        """How many gates the latest event has counted."""
        return {"live": torch.tensor(self._live)}

    def load_training_state(self, state: Mapping[str, torch.Tensor]) -> None:
        check_tensor("live", state, (), torch.int64)
        if len(state) > 1 or not 0 <= int(state["live"]) <= self._keep.numel():
            raise CheckpointError("the method's training state is not what sora keeps; the checkpoint is damaged")
        self._live = int(state["live"])
