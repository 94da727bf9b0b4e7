"""A bound on how far one optimiser step moves a weight, over the norm of the weight: what a rate that is too high does
is made smaller, and what stays below it is plain training.

With factors `A` and `B` before a step and ``A + dA``, ``B + dB`` after it, the weight of a projection moves by::

    D = s (dB (A + dA) + B dA)

Where ``||D||_F`` is above ``b_t ||W0||_F``, `dA` and `dB` are multiplied by ``b_t ||W0||_F / ||D||_F``: to first order
the weight then moves by the bound. Every projection has its own. Over `T` steps the bound falls as the learning rate
does after its warm-up, ``b_t = bound (T - t + 1) / T``, so that under any rate that is high enough a run takes relative
steps of one size that ends at 0. LARS (You et al. 2017, arXiv 1708.03888) always does; here steps are only held below.

``D = s U V`` with ``U = (dB, B)`` and ``V = (A + dA, dA)`` one above the other, so ``||D||_F^2`` is ``s^2`` times the
sum of ``U^T U * V V^T``, two products of ``2r x 2r``. It is computed in every step, of small factors, where the number
of operations counts. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dora_cli.methods.base import Schedule
from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.protocols import Layer

if TYPE_CHECKING:
    from dora_cli.methods.low_rank import triton_step_bound

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
        self._group_norms: dict[_Key, torch.Tensor] = {}
        self._rows: dict[_Key, triton_step_bound.Rows] = {}
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
        key = _key(group)
        if key not in self._group_norms or self._group_norms[key].device != device:
            norms = torch.stack([self._norms[layer] for layer in group.layers])
            self._group_norms[key] = norms / abs(group.scaling) if group.scaling else torch.full_like(norms, torch.inf)
            self._rows.pop(key, None)
            if by_triton(group):
                from dora_cli.methods.low_rank import triton_step_bound

                self._rows[key] = triton_step_bound.Rows(group.layout.ranks, device)

    @torch.no_grad()
    def stage(self, groups: Sequence[Components]) -> None:
        """Before the optimiser's step: remembers the factors."""
        for group in groups:
            self._meet(group)  # in a loop of the user's own nobody else may have
        self._before = [(torch.empty_like(group.A), torch.empty_like(group.B_t)) for group in groups]
        kept = [factor for pair in self._before for factor in pair]
        torch._foreach_copy_(kept, [factor for group in groups for factor in (group.A, group.B_t)])

    @torch.no_grad()
    def hold(self, groups: Sequence[Components]) -> None:
        """After it: makes what moved too far move less. A step that changed nothing stays one."""
        for group, (A, B_t) in zip(groups, self._before, strict=True):
            if rows := self._rows.get(_key(group)):
                self._hold_by_triton(group, (A, B_t), rows)
                continue
            share = self._share(group, A, B_t)
            for factor, before in ((group.A, A), (group.B_t, B_t)):
                torch.lerp(before, factor, share, out=factor)
        self._before = []

    def _share(self, group: Components, A: torch.Tensor, B_t: torch.Tensor) -> torch.Tensor:
        """What each component may make of its step, ``(R, 1)``; 1 for all of it."""
        layout = group.layout
        U, V = layout.stacked(group.B_t - B_t, B_t), layout.stacked(group.A, group.A - A)
        squares = ((U @ U.mT) * (V @ V.mT)).sum((1, 2))
        moved = squares.clamp_min(0).sqrt()
        norms = self._group_norms[_key(group)]
        share = (self._limits[A.device] * norms / moved).clamp(max=1)  # of nothing that moved it is infinite
        return layout.rows(share[:, None, None].expand(-1, layout.width, 1))

    def _hold_by_triton(self, group: Components, before: Rows, rows: triton_step_bound.Rows) -> None:
        from dora_cli.methods.low_rank import triton_step_bound

        limit, norms = self._limits[group.A.device], self._group_norms[_key(group)]
        triton_step_bound.hold((group.A, group.B_t), before, rows, norms, limit)


def by_triton(group: Components) -> bool:
    """Whether the kernels take the group."""
    if group.A.dtype != torch.float32 or not takes_triton(group.A.device):
        return False
    from dora_cli.methods.low_rank import triton_step_bound

    return group.layout.width <= triton_step_bound.MOST


_Key = tuple[float, tuple[tuple[Layer, int], ...]]
"""What norms over the scale, and places of rows, are the same for: a scale, and projections with their ranks."""


def _key(group: Components) -> _Key:
    return group.scaling, tuple(zip(group.layers, group.layout.ranks, strict=True))


def bound_on(bound: float | None, schedule: Schedule | None) -> StepBound | None:
    """None where there is none to keep: without a `bound`, or without a training."""
    return None if bound is None or schedule is None else StepBound(bound, total_steps=schedule.total_steps)
