"""Rotates the components of all projections before a cut."""

from __future__ import annotations

from collections import defaultdict

import torch

from dora_cli.methods.base import Mixture
from dora_cli.methods.carry import Carry
from dora_cli.methods.low_rank.allocation.moments import SecondMoments
from dora_cli.methods.low_rank.allocation.rotation import Rotation
from dora_cli.methods.low_rank.components import Components


class Turner:
    """Applies `rotation` to the components of a method, in place.

    Args:
        rotation: how.
        moments: of what `A` gives; None where the rotation does not ask for them.
        directions: whether the optimiser is given directions to step in, which turn as the factors do, in place of
            gradients; without gates.
    """

    def __init__(self, rotation: Rotation, moments: SecondMoments | None, *, directions: bool = False) -> None:
        assert moments is not None or not rotation.reads_inputs
        self._rotation, self._directions = rotation, directions
        self._moments = moments if rotation.reads_inputs else None

    @torch.no_grad()
    def __call__(self, group: Components) -> tuple[torch.Tensor, list[Mixture]]:
        """Rotates every layer of `group`; gates become 1.

        Returns:
            What each component is worth, ``(rows,)``, and how moments follow; those of gates start anew.
        """
        moments = None if self._moments is None else self._moments.of(group)
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


def _by_rank(group: Components) -> dict[int, list[int]]:
    """The layers of `group`, by number, that have the same rank, and one."""
    found: dict[int, list[int]] = defaultdict(list)
    for number, layer in enumerate(group.layers):
        if layer.rank:
            found[layer.rank].append(number)
    return found
