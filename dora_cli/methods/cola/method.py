"""Chain of LoRA behind the contract: links of LoRA, one after the other, each on top of those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError
from dora_cli.methods.base import Allocation, LoraFactors, Method, Schedule, Site, Size, StepReport
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.starts import lora_A
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.links import LinkSchedule


class Cola(Method):
    """Chain of LoRA (Xia et al. 2024; reference section 3.2): ``W0 + sum_l s_l B_l A_l``, a link `l` at a time.

    Every link starts as LoRA does, ``A ~ U(+-1/sqrt(d_in))`` and ``B = 0``, and is trained for its share of the steps.
    Then it is tied: it stays as it is, beside the base and in the adapters' own precision, since a base in a half type
    loses small updates that are added to it. With the next link the moments of all that trains start anew, also those
    of the head.

    Args:
        links: how many there are.
        rank: of every link.
        ranks: of each link in place of that.
        alpha: the update of a link of rank r is scaled by ``alpha / r``.
        dropout: probability for the input of the link that trains; what is tied is read without.
        restart_learning_rate: whether the learning rate's schedule starts anew with each link.
    """

    name = "cola"
    fuses = True
    packs = True
    announces = True

    def __init__(
        self,
        *,
        links: int,
        rank: int,
        ranks: Sequence[int] | None,
        alpha: float,
        dropout: float,
        restart_learning_rate: bool,
    ) -> None:
        self.rank, self.ranks = rank, tuple(ranks) if ranks is not None else (rank,) * links
        self.links, self.alpha, self.dropout = links, alpha, dropout
        self.restart_learning_rate = restart_learning_rate

    # -- planning and attaching ----------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> LinkSchedule:
        problems = []
        if self.links < 1 or len(self.ranks) != self.links:
            problems.append(f"method.links is {self.links}, with {len(self.ranks)} ranks; each link needs one")
        if any(rank < 1 for rank in self.ranks):
            problems.append(f"a link has rank {min(self.ranks)}; it must be at least 1")
        if not sites:
            problems.append("no projection is adapted, so there is nothing to train; check method.targets")
        if problems:
            raise BudgetError("\n".join(problems))
        components = [rank * len(sites) for rank in self.ranks]
        return LinkSchedule.plan(total_steps, components, noun="link", anew=self.restart_learning_rate)

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.ranks[0] for site in sites}

    def planned_size(self, sites: Sequence[Site], schedule: Schedule) -> tuple[int, int | None]:
        """The link of the highest rank, and all of them."""
        each = sum(sum(site.shape) for site in sites)
        return each * max(self.ranks), each * sum(self.ranks)

    def place(self, model: nn.Module) -> None:
        self._link = 1
        self._adapters = Adapters(model, {site.name: self._wrapped(site) for site in self.sites})

    def _wrapped(self, site: Site) -> AdaptedProjection:
        return AdaptedProjection(site.module, *self._begun_with(site), scaling=self._scaling, dropout=self.dropout)

    def _begun_with(self, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
        """`A` and `B` with which the present link starts."""
        (d_out, d_in), rank = site.shape, self.ranks[self._link - 1]
        dtype = trained_type(weight_of(site.module).dtype)
        A = lora_A(rank, d_in, dtype, self.generator)
        return A, A.new_zeros(d_out, rank)

    @property
    def _scaling(self) -> float:
        """That of the present link."""
        return self.alpha / self.ranks[self._link - 1]

    @property
    def schedule(self) -> LinkSchedule | None:
        """That of the training it was attached for; None if it was attached for evaluation only."""
        assert self._schedule is None or isinstance(self._schedule, LinkSchedule)
        return self._schedule

    def parameters(self) -> list[nn.Parameter]:
        """Those of the link that trains."""
        return self._adapters.parameters()

    # -- once per step -------------------------------------------------------------------------------------------------

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._adapters.training_pass(dtype)

    def advance(self, step: int) -> StepReport:
        """Ties the link that ends with this step and begins the next one."""
        schedule = self.schedule
        assert schedule is not None, "attach with a schedule before training"
        event = schedule.is_event(step)
        if event:
            self._link += 1
            self._adapters.tie({site.name: self._begun_with(site) for site in self.sites})
            self._scale()
        live = schedule.budget(step)
        return StepReport(
            schedule.phase(step),
            live,
            live,
            event=event,
            frozen=event and self.frozen,
            restarted=self.head if event else (),
            regrouped=event,
        )

    def _scale(self) -> None:
        """Has all layers scale as the present link does."""
        for layer in self._adapters.layers.values():
            layer.scaling = self._scaling
        self._adapters.regroup()

    @property
    def frozen(self) -> bool:
        """Whether the last link has begun: no more components come."""
        return self._link == self.links

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        """Stored are all links; at most that of the highest rank trains."""
        each = sum(sum(site.shape) for site in self.sites)
        return Size(each * sum(self.ranks[: self._link]), each * max(self.ranks[: self._link]), self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        """Ranks count the links that have begun."""
        links = tuple(link for link, rank in enumerate(self.ranks[: self._link], start=1) for _ in range(rank))
        return [Allocation(site.name, site.shape, self.ranks[0], len(links), links=links) for site in self.sites]

    def to_lora(self) -> dict[str, LoraFactors]:
        """All links, one after the other."""
        return self._adapters.to_lora()

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Factors of the present link per projection (``NAME.A``, ``.B``), and of those that are tied (``.tied_A``,
        ``.tied_B``, the scale in the latter).
        """
        return self._adapters.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """How many links have begun is how many components are tied."""
        first = state.get(f"{self.sites[0].name}.tied_A")
        tied = 0 if first is None or not first.ndim else len(first)
        begun = [0, *accumulate(self.ranks[:-1])]
        if tied not in begun:
            raise CheckpointError(
                f"the checkpoint's tied components are {tied} in a projection, but links of the ranks "
                f"{', '.join(map(str, self.ranks))} come to {', '.join(map(str, begun))}; it is damaged, or of another "
                "recipe"
            )
        self._link = begun.index(tied) + 1
        for layer in self._adapters.layers.values():
            layer.resize(tied, self.ranks[self._link - 1])
        self._scale()
        self._adapters.load_state_dict(state)
