"""Rotates the components of all projections before a cut, and follows the inputs where the rotation asks for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Mixture, check_tensor
from dora_cli.methods.carry import Carry
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.rotation import Rotation
from dora_cli.methods.low_rank.allocation.scores import Observed, follow
from dora_cli.methods.low_rank.components import Components


class Turner:
    """Applies `rotation` to the components of `adapters`, in place.

    The second moments of what `A` gives are averages over steps, in which `A` moves a little; they begin anew where
    ranks change. What is averaged is staged before the optimiser's step and taken after it, unless that was skipped.

    Args:
        adapters: whose ranks shrink on the way.
        rotation: how.
        beta: of the average over steps.
        directions: whether the optimiser is given directions to step in, which turn as the factors do, in place of
            gradients; without gates.
    """

    def __init__(self, adapters: Adapters, rotation: Rotation, beta: float, *, directions: bool = False) -> None:
        self._adapters, self._rotation, self._beta, self._directions = adapters, rotation, beta, directions
        self._moments: list[torch.Tensor] = []  # (M, r, r) of every group, r its largest rank
        self._staged: list[torch.Tensor] = []
        self._grouping = 0  # the latest that the moments follow

    def _followed(self) -> list[torch.Tensor]:
        groups = self._adapters.groups()
        if self._rotation.reads_inputs and self._grouping != self._adapters.groupings:
            widths = [max(layer.rank for layer in group.layers) for group in groups]
            self._moments = [
                group.A.new_zeros(len(group.layers), width, width) for group, width in zip(groups, widths, strict=True)
            ]
        self._grouping = self._adapters.groupings
        return self._moments

    # -- once per step -------------------------------------------------------------------------------------------------

    def stage(self, seen: Sequence[Observed]) -> None:
        """Takes the step's second moments, ``sum u u^T`` over the number of tokens, while they are there."""
        if self._rotation.reads_inputs:
            self._staged = [group.sums["products"] / group.count[..., None] for group in seen]

    def observe(self, skipped: torch.Tensor | None) -> None:
        """Averages what was staged, unless `skipped` is true."""
        if self._rotation.reads_inputs:
            for average, staged in zip(self._followed(), self._staged, strict=True):
                follow(average, staged, self._beta, skipped)
            self._staged = []

    # -- before a cut --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, group: Components) -> tuple[torch.Tensor, list[Mixture]]:
        """Rotates every layer of `group`; gates become 1.

        Returns:
            What each component is worth, ``(rows,)``, and how moments follow; those of gates start anew.
        """
        # a copy of components that were put together anew would have lost its group's place
        place = next(index for index, one in enumerate(self._adapters.groups()) if one is group)
        moments = self._followed()[place] if self._rotation.reads_inputs else None
        worth, mixed = torch.zeros_like(group.A[:, 0]), list[Mixture]()
        for rank, numbers in _by_rank(group).items():
            device = group.A.device
            starts = torch.tensor([group.starts[number] for number in numbers], device=device)
            rows = starts[:, None] + torch.arange(rank, device=device)
            C = None if moments is None else moments[torch.tensor(numbers, device=device), :rank, :rank]
            gates = None if group.c is None else group.c[rows]
            new = self._rotation(group.A[rows], group.B_t[rows], gates, group.scaling, C)
            group.A[rows], group.B_t[rows], worth[rows] = new.A, new.B_t, new.values
            if group.c is not None:
                group.c[rows] = 1.0
            carries = (new.carry_B, new.carry_A) if self._directions else (new.carry_A, new.carry_B)
            for index, number in enumerate(numbers):
                layer = group.layers[number]
                of_A, of_B = (Carry(carry.matrix[index], carry.known[index]) for carry in carries)
                mixed += [Mixture(layer.A, 0, of_A), Mixture(layer.B, 1, of_B)]
                if layer.c is not None:
                    mixed.append(Mixture(layer.c, 0, Carry(of_A.matrix, torch.zeros_like(of_A.known))))
        return worth, mixed

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages of every group."""
        return {f"second_moments.{index}": average for index, average in enumerate(self._followed())}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict`, with components of the same ranks. Raises CheckpointError on the first misfit."""
        like = self.state_dict()
        for name, average in like.items():
            check_tensor(name, state, average.shape, average.dtype)
            average.copy_(state[name])
        if len(state) != len(like):
            raise CheckpointError("the method's training state is not what dora keeps; the checkpoint is damaged")


def _by_rank(group: Components) -> dict[int, list[int]]:
    """The layers of `group`, by number, that have the same rank, and one."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, layer in enumerate(group.layers):
        if layer.rank:
            found[layer.rank].append(number)
    return found
