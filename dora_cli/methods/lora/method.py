"""Plain LoRA behind the contract: ``W0 + s B A`` with ranks that stay as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import nn

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Allocation, FactorPair, Group, LoraFactors, Method, PlainSchedule, Site
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.lora.full_moments import FullMoments
from dora_cli.methods.lora.ranks import ranks_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.starts import lora_A
from dora_cli.methods.low_rank.gradients.adjusted import adjustment
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.noise.flatness import noise_on
from dora_cli.methods.low_rank.step_bound import bound_on


class Lora(Method):
    """LoRA (Hu et al. 2021; reference section 2.2).

    ``A ~ U(+-1/sqrt(d_in))`` and ``B = 0`` at the start, as in loralib and PEFT.

    Args:
        rank: of every projection that `ranks` does not name.
        ranks: by glob pattern or full path, the first that fits; 0 leaves a projection as it is.
        ranks_shuffle: a seed by which ranks are exchanged among projections of equal shape; None leaves them.
        alpha: the update of a projection of rank r is scaled by ``alpha / r``.
        scaling: ``"rank-stabilised"`` scales by ``alpha / sqrt(r)`` (Kalajdzievski 2023, arXiv 2312.03732).
        learning_rate_ratio: learning rate of `B` over that of `A` (LoRA+, Hayou et al. 2024, arXiv 2402.12354).
        dropout: probability for the adapters' input.
        gradients: what the optimiser is given: ``"plain"``, autograd's; ``"pro"``, LoRA-Pro's; ``"riemannian"`` (see
            `low_rank.gradients.adjusted`).
        moments: of ``"pro"``: ``"low-rank"``, AdamW on the factors; ``"full"``, Adam on the equivalent gradient of the
            weight, as published (`FullMoments`).
        damping: of the Gram matrices of ``"pro"`` and ``"riemannian"``; None takes the usual one.
        flatness: sigma of the noise on the adapted weights in training (`low_rank.noise.flatness`); 0 for none.
        step_bound: on how far a step moves a weight, over the weight's norm (`low_rank.step_bound`); None for none.
    """

    name = "lora"
    fuses = True
    packs = True
    announces = True

    def __init__(
        self,
        *,
        rank: int,
        ranks: Mapping[str, int] | None,
        ranks_shuffle: int | None,
        alpha: float,
        scaling: Literal["standard", "rank-stabilised"],
        learning_rate_ratio: float,
        dropout: float,
        gradients: Literal["plain", "pro", "riemannian"],
        moments: Literal["low-rank", "full"],
        damping: float | None,
        flatness: float,
        step_bound: float | None,
    ) -> None:
        self.flatness = flatness
        self.step_bound = step_bound
        self.rank, self.ranks, self.ranks_shuffle = rank, ranks, ranks_shuffle
        self.alpha, self.scaling, self.dropout = alpha, scaling, dropout
        self.learning_rate_ratio = learning_rate_ratio
        self.adjustment, self.full_moments = adjustment(gradients, damping), moments == "full"

    def plan(self, total_steps: int, sites: Sequence[Site]) -> PlainSchedule:
        components = sum(self.start_ranks(sites).values())
        if sites and not components:
            raise BudgetError("method.ranks leaves every projection at rank 0: nothing would be adapted; raise one")
        return PlainSchedule.of(total_steps, components)

    def place(self, model: nn.Module) -> None:
        self._of = self.start_ranks(self.sites)
        ranked = [(site, self._of[site.name]) for site in self.sites if self._of[site.name]]
        self._adapters = Adapters(model, {site.name: self._wrapped(site, rank) for site, rank in ranked})
        self._noise = noise_on(
            self._adapters.layers,
            self.sites,
            self._schedule,
            sigma=self.flatness,
            seed=self.generator.initial_seed(),
        )
        self._step_bound = bound_on(self.step_bound, self._schedule)

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return ranks_of(sites, self.rank, self.ranks, shuffle=self.ranks_shuffle)

    def _wrapped(self, site: Site, rank: int) -> AdaptedProjection:
        d_out, d_in = site.shape
        dtype = trained_type(weight_of(site.module).dtype)
        A = lora_A(rank, d_in, dtype, self.generator)
        scale = self.alpha / (math.sqrt(rank) if self.scaling == "rank-stabilised" else rank)
        return AdaptedProjection(site.module, A, A.new_zeros(d_out, rank), scaling=scale, dropout=self.dropout)

    def parameters(self) -> list[nn.Parameter]:
        return self._adapters.parameters()

    def factors(self) -> list[FactorPair]:
        return [FactorPair(name, layer.A, layer.B) for name, layer in self._adapters.layers.items()]

    def remarks(self, sites: Sequence[Site]) -> list[str]:
        if not self.full_moments:
            return []
        ranks = self.start_ranks(sites)
        adapted = [site for site in sites if ranks[site.name]]
        entries = sum(2 * d_out * d_in for d_out, d_in in (site.shape for site in adapted))
        width = sum(trained_type(weight_of(site.module).dtype).itemsize for site in adapted) // max(len(adapted), 1)
        said = (
            f"method.moments full keeps two moments of every weight that is adapted, {entries * width:,} bytes beside "
            "the model, and every checkpoint holds them, of a federated training those of every client; low-rank keeps "
            "those of the factors"
        )
        return [said]

    def groups(self) -> list[Group]:
        if self.full_moments:
            return [Group(self.parameters()), *([Group(self.head)] if self.head else [])]
        if self.learning_rate_ratio == 1:
            return super().groups()
        layers = self._adapters.layers.values()
        return [
            Group([*(layer.A for layer in layers), *self.head]),
            Group([layer.B for layer in layers], rate=self.learning_rate_ratio),
        ]

    def make_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        if self.full_moments:
            assert self.adjustment is not None, "moments of plain gradients are the factors' own"
            return FullMoments(self._adapters, groups, damping=self.adjustment.damping)
        return super().make_optimizer(groups)

    def begin_step(self, step: int, learning_rate: float) -> None:
        if self._noise is not None:
            self._noise.begin_step(step)
        if self._step_bound is not None:
            self._step_bound.begin_step(step, self._adapters.groups())

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._adapters.training_pass(dtype)

    def adjust_gradients(self) -> None:
        """What full moments follow is made of the clipped gradients, by their optimiser."""
        if self.adjustment is not None and not self.full_moments:
            self.adjustment(self._adapters.groups())
        if self._step_bound is not None:
            self._step_bound.stage(self._adapters.groups())

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        if self._step_bound is not None:
            self._step_bound.hold(self._adapters.groups())

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def allocation(self) -> list[Allocation]:
        return [Allocation(site.name, site.shape, self._of[site.name], self._of[site.name]) for site in self.sites]

    def to_lora(self) -> dict[str, LoraFactors]:
        return self._adapters.to_lora()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._adapters.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._adapters.load_state_dict(state)
