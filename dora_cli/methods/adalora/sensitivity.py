"""How much the loss hangs on every entry of the factors and gates, smoothed over steps, and the triplets' scores.

For an entry `w` with gradient `g` (paper, equations 9 to 11), after every step::

    I = |w g|,   I_bar <- b1 I_bar + (1 - b1) I,   U <- b2 U + (1 - b2) |I - I_bar|

An entry scores ``I_bar U``; a triplet the score of its gate, plus the mean over its vector of `A`, plus that of `B`
(equation 12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import check_tensor
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton
from dora_cli.methods.low_rank.components import Components
from dora_cli.printable import shown

_AT_ONCE = 2**16  # entries on the CPU: what is worked on stays in its cache
_FACTORS = ("A", "B_t", "c")

Update = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float, float, "torch.Tensor | None"], None]


def update(
    weight: torch.Tensor,
    gradient: torch.Tensor,
    sensitivity: torch.Tensor,
    uncertainty: torch.Tensor,
    beta1: float,
    beta2: float,
    skipped: torch.Tensor | None,
) -> None:
    """Brings `sensitivity` (`I_bar`) and `uncertainty` (`U`) up to date, in place; all of one shape, contiguous.

    Where `skipped`, a boolean scalar, is true, both stay as they were, whatever the gradient is.
    """
    entries = weight.numel()
    at_once = min(_AT_ONCE, entries) if weight.device.type == "cpu" else entries
    room = torch.empty(at_once, dtype=weight.dtype, device=weight.device)
    whole = [tensor.view(-1) for tensor in (weight, gradient, sensitivity, uncertainty)]
    for start in range(0, entries, at_once):
        w, g, smoothed, spread = (tensor[start : start + at_once] for tensor in whole)
        now = torch.mul(w, g, out=room[: len(w)]).abs_()
        if skipped is not None:  # an average moves to itself
            torch.where(skipped, smoothed, now, out=now)
        smoothed.lerp_(now, 1 - beta1)
        now.sub_(smoothed).abs_()
        if skipped is not None:
            torch.where(skipped, spread, now, out=now)
        spread.lerp_(now, 1 - beta2)


def update_for(device: torch.device, dtype: torch.dtype) -> Update:
    """`update`, or the same in Triton."""
    if dtype == torch.float32 and takes_triton(device):
        from dora_cli.methods.adalora import triton_sensitivity

        return triton_sensitivity.update
    return update


class Smoothed(NamedTuple):
    """`I_bar` and `U` of one factor, in the shape of its rows."""

    sensitivity: torch.Tensor
    uncertainty: torch.Tensor


class Sensitivity:
    """`I_bar` and `U` of everything that `adapters` train, stacked as their components are, and as wide. From zero.

    Args:
        adapters: with gates, and before any rank shrinks.
        beta1: decay of `I_bar`.
        beta2: decay of `U`.
    """

    def __init__(self, adapters: Adapters, beta1: float, beta2: float) -> None:
        self._adapters, self._beta1, self._beta2 = adapters, beta1, beta2
        self._kept: list[tuple[Smoothed, ...]] = []
        self._names: list[list[str]] = []  # of the projections of each group
        self._grouping = 0  # the latest that these follow
        self._groups()

    def _groups(self) -> Iterator[tuple[Components, tuple[Smoothed, ...]]]:
        """Every group with what is kept of it; where groups were put together anew, it follows them."""
        groups = self._adapters.groups()
        if self._grouping != self._adapters.groupings:
            before = self._by_projection()
            order = iter(self._adapters.order)
            self._names = [[next(order) for _ in group.layers] for group in groups]
            self._kept = [
                tuple(
                    _stacked([before[name][index] for name in names], rows) if before else _zeros(rows)
                    for index, rows in enumerate(_rows(group))
                )
                for group, names in zip(groups, self._names, strict=True)
            ]
            self._grouping = self._adapters.groupings
        return zip(groups, self._kept, strict=True)

    def _by_projection(self) -> dict[str, list[Smoothed]]:
        """What is kept of each projection's three factors; all have as many components."""
        found = {}
        for names, kept in zip(self._names, self._kept, strict=True):
            parts = [[tensor.tensor_split(len(names)) for tensor in pair] for pair in kept]
            for place, name in enumerate(names):
                found[name] = [Smoothed(first[place], second[place]) for first, second in parts]
        return found

    def follow(self, skipped: torch.Tensor | None) -> None:
        """Takes in the present weights and gradients, unless `skipped`, a boolean scalar on the device, is true."""
        for group, kept in self._groups():
            gradients = group.take_gradients()
            change = update_for(group.A.device, group.A.dtype)
            for rows, gradient, pair in zip(_rows(group), gradients, kept, strict=True):
                assert gradient is not None
                change(rows, gradient, *pair, self._beta1, self._beta2, skipped)

    def scores(self) -> torch.Tensor:
        """The score of every triplet, one group after the other: ``(components,)``."""
        found = []
        for _, (A, B_t, c) in self._groups():
            vectors = [torch.linalg.vecdot(*pair) / pair.sensitivity.shape[1] for pair in (A, B_t)]
            found.append(c.sensitivity * c.uncertainty + vectors[0] + vectors[1])
        return torch.cat(found)

    # -- in checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All of it, by ``GROUP.FACTOR.sensitivity`` and ``.uncertainty``."""
        return {
            f"{number}.{factor}.{what}": tensor
            for number, (_, kept) in enumerate(self._groups())
            for factor, pair in zip(_FACTORS, kept, strict=True)
            for what, tensor in pair._asdict().items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict`. Raises CheckpointError on the first misfit."""
        places = self.state_dict()
        for key, tensor in places.items():
            check_tensor(key, state, tensor.shape, tensor.dtype)
            if not bool((state[key] >= 0).all()) or not bool(state[key].isfinite().all()):
                raise CheckpointError(
                    f"tensor {key} of the checkpoint's training state holds values that no training leaves (below 0, "
                    "or not finite); it is damaged, use another checkpoint of the run"
                )
        if unknown := state.keys() - places.keys():
            raise CheckpointError(
                f"tensor {shown(min(unknown))} is in the checkpoint's training state, but this model and recipe have "
                "no place for it"
            )
        for key, tensor in places.items():
            tensor.copy_(state[key])


def _rows(group: Components) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return group.A, group.B_t, group.gates


def _zeros(rows: torch.Tensor) -> Smoothed:
    return Smoothed(torch.zeros_like(rows), torch.zeros_like(rows))


def _stacked(parts: list[Smoothed], rows: torch.Tensor) -> Smoothed:
    """`parts` one after the other, where `rows` are."""
    first, second = (torch.cat(tensors).to(rows.device, rows.dtype) for tensors in zip(*parts, strict=True))
    return Smoothed(first, second)
