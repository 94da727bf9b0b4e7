"""The second moments of what the `A` of every projection gives, followed over the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import check_tensor
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.scores import Observed, Shown, follow
from dora_cli.methods.low_rank.components import Components


class SecondMoments:
    """``C = E[u u^T]`` of ``u = A x`` over real tokens, for all projections of `adapters`.

    Averages over steps, in which `A` moves a little; they begin anew where ranks change. What is averaged is staged
    before the optimiser's step and taken after it, unless that was skipped.

    Args:
        adapters: whose ranks shrink on the way.
        beta: of the average over steps.
    """

    passes: tuple[Shown, ...] = ("products",)
    """What it needs of training passes, as a score tells it."""

    def __init__(self, adapters: Adapters, beta: float) -> None:
        self._adapters, self._beta = adapters, beta
        self._averages: list[torch.Tensor] = []  # (M, r, r) of every group, r its largest rank
        self._staged: list[torch.Tensor] = []
        self._grouping = 0  # the latest that the averages follow

    def _followed(self) -> list[torch.Tensor]:
        groups = self._adapters.groups()
        if self._grouping != self._adapters.groupings:
            widths = [group.layout.width for group in groups]
            self._averages = [
                group.A.new_zeros(len(group.layers), width, width) for group, width in zip(groups, widths, strict=True)
            ]
            self._grouping = self._adapters.groupings
        return self._averages

    def stage(self, seen: Sequence[Observed]) -> None:
        """Takes the step's second moments, ``sum u u^T`` over the number of tokens, while they are there."""
        self._staged = [group.sums["products"] / group.count[..., None] for group in seen]

    def observe(self, skipped: torch.Tensor | None) -> None:
        """Averages what was staged, unless `skipped` is true."""
        for average, staged in zip(self._followed(), self._staged, strict=True):
            follow(average, staged, self._beta, skipped)
        self._staged = []

    def of(self, group: Components) -> torch.Tensor:
        """Those of the projections of `group`, stacked as its layout says, ``(M, r, r)``."""
        # a copy of components that were put together anew would have lost its group's place
        place = next(index for index, one in enumerate(self._adapters.groups()) if one is group)
        return self._followed()[place]

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
