"""MELoRA behind the contract: several small LoRAs beside each other, each between a part of inputs and of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.methods.base import Allocation, LoraFactors, Method, PlainSchedule, Schedule, Site
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.starts import lora_A
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.melora.parts import check_parts


class Melora(Method):
    """MELoRA (Ren et al. 2024; reference section 3.1): ``dW = alpha / r blockdiag(B_1 A_1, ..., B_n A_n)``.

    Inputs and outputs of a projection are cut into `n` equal contiguous parts, and a mini LoRA of rank `r` leads from
    each part to its own. Together they have rank up to ``n r``, of as many numbers as one LoRA of rank `r`. At the
    start ``A_i ~ U(+-1/sqrt(d_in / n))`` and ``B_i = 0``.

    `A` holds the minis' rows one below the other, ``(n r, d_in / n)``, `B` their columns beside each other,
    ``(d_out / n, n r)``. A rank, of which schedule and records speak, counts all their components.

    Args:
        rank: `r`, of a mini.
        minis: `n`.
        alpha: the update is scaled by ``alpha / r``.
        dropout: probability for the adapters' input.
    """

    name = "melora"
    fuses = True
    packs = True
    announces = True

    def __init__(self, *, rank: int, minis: int, alpha: float, dropout: float) -> None:
        self.rank, self.minis, self.dropout = rank, minis, dropout
        self.scaling = alpha / rank

    def plan(self, total_steps: int, sites: Sequence[Site]) -> PlainSchedule:
        """Raises BudgetError where inputs or outputs of a site cannot be cut into so many parts."""
        check_parts(sites, self.minis)
        return PlainSchedule.of(total_steps, sum(self.start_ranks(sites).values()))

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.minis * self.rank for site in sites}

    def planned_size(self, sites: Sequence[Site], schedule: Schedule) -> tuple[int, int]:
        stored = sum(map(self._stored, sites))
        return stored, stored

    def _stored(self, site: Site) -> int:
        """Entries of a site's minis, as many as those of one LoRA of rank `r`."""
        return self.rank * sum(site.shape)

    def place(self, model: nn.Module) -> None:
        check_parts(self.sites, self.minis)
        self._adapters = Adapters(model, {site.name: self._wrapped(site) for site in self.sites})

    def _wrapped(self, site: Site) -> AdaptedProjection:
        width_out, width_in = (width // self.minis for width in site.shape)
        dtype = trained_type(weight_of(site.module).dtype)
        A = lora_A(self.minis * self.rank, width_in, dtype, self.generator)
        B = A.new_zeros(width_out, len(A))
        return AdaptedProjection(site.module, A, B, scaling=self.scaling, dropout=self.dropout, chunks=self.minis)

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._adapters.training_pass(dtype)

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def allocation(self) -> list[Allocation]:
        rank = self.minis * self.rank
        return [Allocation(site.name, site.shape, rank, rank, None, self._stored(site)) for site in self.sites]

    def to_lora(self) -> dict[str, LoraFactors]:
        """LoRA of rank ``n r`` whose factors are block-diagonal: what is stored for the minis, and zeros."""
        return self._adapters.to_lora()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._adapters.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._adapters.load_state_dict(state)
