"""CoRA behind the contract: LoRA whose `B` is a basis of a subspace that several models, or layers, have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

from dora_cli.errors import BudgetError, ModelError
from dora_cli.methods.base import (
    Allocation,
    LoraFactors,
    Method,
    PlainSchedule,
    Schedule,
    Site,
    Size,
    check_tensor,
)
from dora_cli.methods.cora.subspace import leading, rounding_of
from dora_cli.methods.linear import trained_type, weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.layer import AdaptedProjection

BASIS = "basis"
"""What the keys of stored bases begin with."""


class Cora(Method):
    """CoRA (Xiao et al. 2024; reference section 3.6): ``W0 + alpha / r B A``, `B` a basis of a common subspace.

    Of every group of projections the weights, or their differences to the base model's, are put side by side,
    ``(d_out, all columns)``; their `r` leading left singular vectors are the columns of `B`, orthonormal. ``A = 0`` at
    the start, so the model computes what its base does. An SVD differs between machines: a basis is computed once,
    when a training begins, and stored with the adapter.

    Args:
        rank: `r`.
        alpha: the update is scaled by ``alpha / r``.
        dropout: probability for the adapters' input.
        train_basis: whether `B` trains, each projection's own from the common start on; else it stays, and half the
            numbers train.
        models: other base models that the subspace is common to; none takes the layers of the base model alone.
        aggregate: ``"weights"``, the base model's among them, or ``"differences"`` of the other models' to them.
        common_to: one basis for all projections of a ``"role"`` and a width, or one for each ``"projection"``.
        normalise: whether every matrix is divided by its norm first.
        center: whether the mean of all columns is subtracted first.
    """

    name = "cora"
    fuses = True
    packs = True
    announces = True

    def __init__(
        self,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        train_basis: bool,
        models: Sequence[str] | None,
        aggregate: Literal["weights", "differences"],
        common_to: Literal["role", "projection"],
        normalise: bool,
        center: bool,
    ) -> None:
        self.rank, self.scaling, self.dropout = rank, alpha / rank, dropout
        self.train_basis, self.common_to = train_basis, common_to
        self.reference_models = tuple(models or ())
        self.aggregate, self.normalise, self.center = aggregate, normalise, center

    # -- planning ------------------------------------------------------------------------------------------------------

    def plan(self, total_steps: int, sites: Sequence[Site]) -> PlainSchedule:
        """Raises BudgetError where a basis would need more columns than its space has dimensions."""
        models = len(self.reference_models) + (self.aggregate == "weights")
        most = {
            label: min(members[0].shape[0], models * sum(site.shape[1] for site in members) - self.center)
            for label, members in self._groups(sites).items()
            if members[0].name  # else the model is out of reach
        }
        self._check_rank(most)
        return PlainSchedule.of(total_steps, sum(self.start_ranks(sites).values()))

    def start_ranks(self, sites: Sequence[Site]) -> dict[str, int]:
        return {site.name: self.rank for site in sites}

    def planned_size(self, sites: Sequence[Site], schedule: Schedule) -> tuple[int, int]:
        read = self.rank * sum(site.shape[1] for site in sites)
        if self.train_basis:
            both = read + self.rank * sum(site.shape[0] for site in sites)
            return both, both
        return read, read + self.rank * sum(members[0].shape[0] for members in self._groups(sites).values())

    def _groups(self, sites: Sequence[Site]) -> dict[str, list[Site]]:
        """The projections of each basis, by a name for it."""
        found: dict[str, list[Site]] = defaultdict(list)
        for site in sites:
            if self.common_to == "projection":
                label = site.name
            else:  # what has no known role is only like what stands at the same place of another block
                label = f"{site.role if site.role != 'other' else site.projection or 'other'}.{site.shape[0]}"
            found[label].append(site)
        return found

    def _check_rank(self, dimensions: Mapping[str, int]) -> None:
        """Raises BudgetError, which names every basis whose space has fewer `dimensions` than there are to be."""
        short = {label: found for label, found in dimensions.items() if found < self.rank}
        if not short:
            return
        least = min(short.values())
        fix = f"lower it to at most {least:,}" if least else "leave those out of method.targets"
        if self.reference_models and self.aggregate == "differences":
            fix += ", name other models, or set method.aggregate to weights"
        spaces = ", ".join(f"{found:,} ({label})" for label, found in short.items())
        raise BudgetError(
            f"method.rank is {self.rank:,}, more than the dimensions of {len(short):,} of {len(dimensions):,} common "
            f"subspaces: {spaces}; {fix}"
        )

    # -- attaching -----------------------------------------------------------------------------------------------------

    def place(self, model: nn.Module) -> None:
        """Wraps every projection; bases are computed where a training begins, and loaded otherwise."""
        self._members = self._groups(self.sites)
        bases = self._bases_of_weights() if self.fresh and len(self.references) == len(self.reference_models) else {}
        frozen = () if self.train_basis else ("B",)
        layers = {}
        for label, members in self._members.items():
            for site in members:
                d_out, d_in = site.shape
                dtype = trained_type(weight_of(site.module).dtype)
                B = bases.get(label, torch.zeros(d_out, self.rank)).to(dtype)
                A = torch.zeros(self.rank, d_in, dtype=dtype)
                layers[site.name] = AdaptedProjection(
                    site.module, A, B, scaling=self.scaling, dropout=self.dropout, frozen=frozen
                )
        self._adapters = Adapters(model, {site.name: layers[site.name] for site in self.sites})

    @torch.no_grad()
    def _bases_of_weights(self) -> dict[str, torch.Tensor]:
        """The basis of every group. Raises BudgetError where one has fewer directions than asked for."""
        bases, dimensions = {}, {}
        for label, members in self._members.items():
            bases[label], dimensions[label] = leading(
                self._matrices(members), self.rank, normalise=self.normalise, center=self.center
            )
        self._check_rank(dimensions)
        return bases

    def _matrices(self, members: Sequence[Site]) -> Iterator[tuple[torch.Tensor, float]]:
        """What the basis of `members` is made of, each with its rounding."""
        for site in members:
            own = weight_of(site.module).detach()
            others = [weights[site.name].to(own.device) for weights in self.references]
            if not all(bool(one.isfinite().all()) for one in (own, *others)):
                raise ModelError(f"{site.name} has weights that are not finite, in the base model or in another one")
            if self.aggregate == "weights":
                for weight in (own, *others):
                    yield weight, rounding_of(weight)
            else:
                for weight in others:
                    yield weight.double() - own.double(), rounding_of(weight, own)

    def computed_start(self) -> list[torch.Tensor]:
        """The bases: an SVD differs between machines."""
        return [layer.B for layer in self._adapters.layers.values()]

    def parameters(self) -> list[nn.Parameter]:
        """`A` of every projection, and `B` where it trains."""
        return self._adapters.parameters()

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._adapters.training_pass(dtype)

    # -- what came of it -----------------------------------------------------------------------------------------------

    def delta(self, site: Site, dtype: torch.dtype) -> torch.Tensor | None:
        return self._adapters.delta(site.name, dtype)

    def release(self) -> None:
        self._adapters.release()

    def size(self) -> Size:
        """Stored are a frozen basis, once however many share it, and what trains."""
        trained = sum(parameter.numel() for parameter in self.parameters())
        return Size(sum(tensor.numel() for tensor in self.state_dict().values()), trained, self._stored_bytes())

    def allocation(self) -> list[Allocation]:
        shared = not self.train_basis and self.common_to == "role"  # then a basis is no projection's alone
        return [
            Allocation(site.name, site.shape, self.rank, self.rank, None, self.rank * site.shape[1] if shared else None)
            for site in self.sites
        ]

    def to_lora(self) -> dict[str, LoraFactors]:
        return self._adapters.to_lora()

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """`A` per projection (``NAME.A``) and `B`: of every projection (``NAME.B``) where it trains, else of every
        group (``basis.GROUP``).
        """
        return self._adapters.state_dict() | self._frozen()

    def _frozen(self) -> dict[str, torch.Tensor]:
        """The frozen bases by their keys."""
        if self.train_basis:
            return {}
        layers = self._adapters.layers
        return {
            f"{BASIS}.{label}": layers[members[0].name].B.detach().contiguous()
            for label, members in self._members.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        bases = self._frozen()
        for key, basis in bases.items():
            check_tensor(key, state, basis.shape, basis.dtype)
        self._adapters.load_state_dict({key: value for key, value in state.items() if key not in bases})
        for label, members in self._members.items() if bases else ():
            for site in members:
                self._adapters.layers[site.name].B.copy_(state[f"{BASIS}.{label}"])
