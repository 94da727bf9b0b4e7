"""A bound on how far one optimiser step moves a weight, over the norm of the weight: what a rate that is too high does
is made smaller, and what stays below it is plain training.

With factors `A` and `B` before a step and ``A + dA``, ``B + dB`` after it, the weight of a projection moves by::

    D = s (dB (A + dA) + B dA)

Where ``||D||_F`` is above ``b_t ||W0||_F``, `dA` and `dB` are multiplied by ``b_t ||W0||_F / ||D||_F``: to first order
the weight then moves by the bound. Every projection has its own. Over `T` steps the bound falls as the learning rate
does after its warm-up, ``b_t = bound (T - t + 1) / T``, so that under any rate that is high enough a run takes relative
steps of one size that ends at 0. LARS (You et al. 2017, arXiv 1708.03888) always does; here steps are only held below.

``||D||_F`` comes from products of factors, ``r x r`` each. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dora_cli.methods.base import Schedule
from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.protocols import Layer

Rows = tuple[torch.Tensor, torch.Tensor]
"""`A` and the transpose of `B`, a row a component."""


class StepBound:
    """Holds the steps of components without gates.

    Args:
        bound: on ``||D||_F / ||W0||_F`` of the first step.
        total_steps: `T`.
    """

    def __init__(self, bound: float, *, total_steps: int) -> None:
        self._bound, self._total_steps = bound, total_steps
        self._norms: dict[Layer, torch.Tensor] = {}
        self._limits: dict[torch.device, torch.Tensor] = {}
        self._before: list[Rows] = []

    @torch.no_grad()
    def begin_step(self, step: int, groups: Sequence[Components]) -> None:
        """On the host, before a step that may be captured: its bound, and the norms of weights that are new."""
        for group in groups:
            self._meet(group)
        for limit in self._limits.values():
            limit.fill_(self._bound * (self._total_steps - step + 1) / self._total_steps)

    def _meet(self, group: Components) -> None:
        """Makes what has to stay where it is for a capture, of what was not seen yet."""
        device, dtype = group.A.device, group.A.dtype
        if device not in self._limits:
            self._limits[device] = torch.tensor(self._bound, dtype=dtype, device=device)
        for layer in group.layers:
            if layer not in self._norms or self._norms[layer].device != device:
                norm = torch.linalg.vector_norm(weight_of(layer.base), dtype=dtype)
                self._norms[layer] = torch.where(norm == 0, torch.inf, norm)  # nothing could ever move there

    @torch.no_grad()
    def stage(self, groups: Sequence[Components]) -> None:
        """Before the optimiser's step: remembers the factors."""
        for group in groups:
            self._meet(group)  # in a loop of the user's own nobody else may have
        self._before = [(group.A.clone(), group.B_t.clone()) for group in groups]

    @torch.no_grad()
    def hold(self, groups: Sequence[Components]) -> None:
        """After it: makes what moved too far move less. A step that changed nothing stays one."""
        for group, (A, B_t) in zip(groups, self._before, strict=True):
            share = self._share(group, A, B_t)
            for factor, before in ((group.A, A), (group.B_t, B_t)):
                factor.copy_(torch.lerp(before, factor, share[:, None]))
        self._before = []

    def _share(self, group: Components, A: torch.Tensor, B_t: torch.Tensor) -> torch.Tensor:
        """What each component may make of its step, ``(R,)``; 1 for all of it."""
        layout = group.layout
        dA, dB, before, after = (layout.stacked(rows) for rows in (group.A - A, group.B_t - B_t, B_t, group.A))
        squares = (dB @ dB.mT) * (after @ after.mT) + (before @ before.mT) * (dA @ dA.mT)
        squares = squares + 2 * (dB @ before.mT) * (after @ dA.mT)
        moved = group.scaling * squares.sum((1, 2)).clamp_min(0).sqrt()
        norms = torch.stack([self._norms[layer] for layer in group.layers])
        share = (self._limits[A.device] * norms / moved).clamp(max=1)  # of nothing that moved it is infinite
        return layout.rows(share[:, None].expand(-1, layout.width))


def bound_on(bound: float | None, schedule: Schedule | None) -> StepBound | None:
    """None where there is none to keep: without a `bound`, or without a training."""
    return None if bound is None or schedule is None else StepBound(bound, total_steps=schedule.total_steps)
