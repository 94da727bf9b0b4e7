"""Adam on the equivalent gradient of LoRA-Pro, with moments as large as the weights: the method as published.

One step takes the gradients that autograd gives, clipped; for every projection::

    g  = s (B gA + gB A)          gA, gB: adjusted, with X = 0 (see `low_rank.gradients.adjusted`)
    m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
    g' = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    A <- A - rate gA',  B <- B - rate gB'     gA', gB': s B^T g' and s g' A^T, adjusted, with X

Weight decay is decoupled, as AdamW's, and falls on the factors. The head has fused AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.gradients.adjusted import Pair, adjusted, closest, equivalent

_AT_ONCE = 2**24
"""Entries of weights that are worked on together: enough for a GPU, and never a copy of a whole model."""


class FullMoments(torch.optim.Optimizer):
    """See the module. What it keeps of a projection is the state of its `A`, in the shape of the weight, and there from
    the beginning.

    Args:
        adapters: those that train, without gates.
        groups: the factors of all of `adapters`, then what else trains.
        damping: see `low_rank.gradients.adjusted`.

    Attributes:
        found_inf: a scalar on the device, 1 for a step that is to change nothing; None takes every step.
    """

    found_inf: torch.Tensor | None = None

    def __init__(self, adapters: Adapters, groups: Sequence[Mapping[str, Any]], *, damping: float) -> None:
        factors, *others = (dict(group) for group in groups)
        self._adapters, self._damping = adapters, damping
        self._others = torch.optim.AdamW(others, fused=True) if others else None
        # the very same groups and states, so that rates set and states loaded here are its own
        super().__init__([factors, *([] if self._others is None else self._others.param_groups)], {})
        if self._others is not None:
            self._others.state = self.state
        self._kept = [self._begin(group) for group in adapters.groups()]

    def _begin(self, group: Components) -> dict[str, torch.Tensor]:
        """Zeros for all projections of a group; each has its part of them as its state."""
        layers = group.layers
        size = len(layers), group.B_t.shape[1], group.A.shape[1]
        kept = {
            "step": torch.zeros(len(layers), dtype=torch.float32, device=group.A.device),
            "exp_avg": group.A.new_zeros(size),
            "exp_avg_sq": group.A.new_zeros(size),
        }
        for index, layer in enumerate(layers):
            self.state[layer.A] = {key: tensor[index] for key, tensor in kept.items()}
        return kept

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; no closure is called."""
        if self._others is not None:
            self._others.found_inf, self._others.grad_scale = self.found_inf, None  # type: ignore[attr-defined]
            self._others.step()
        groups, own = self._adapters.groups(), self.param_groups[0]
        device = groups[0].A.device
        skipped = torch.zeros((), device=device) if self.found_inf is None else self.found_inf
        skipped = skipped.to(device, torch.bool)
        # nothing of a bad step may come near the moments, not even times zero
        gradients = [_unless(skipped, group.take_gradients()[:2]) for group in groups]
        equivalents = adjusted(groups, gradients, equivalent, self._damping)
        directions = [self._directions(*parts, skipped) for parts in zip(groups, self._kept, equivalents, strict=True)]
        for group, pair in zip(groups, adjusted(groups, directions, closest, self._damping), strict=True):
            for factor, gradient in zip((group.A, group.B_t), pair, strict=True):
                new = factor * (1 - own["lr"] * own["weight_decay"]) - own["lr"] * gradient
                factor.copy_(torch.where(skipped, factor, new))

    def _directions(
        self, group: Components, kept: Mapping[str, torch.Tensor], pair: Pair, skipped: torch.Tensor
    ) -> Pair:
        """Follows the equivalent gradients of `pair`; what autograd would give of Adam's directions for the weights."""
        own, rank, scale = self.param_groups[0], group.rank, group.scaling
        A, B_t = (rows.view(len(group.layers), rank, -1) for rows in (group.A, group.B_t))
        gradient_A, gradient_B_t = (rows.view(len(group.layers), rank, -1).to(A.dtype) for rows in pair)
        kept["step"].add_((~skipped).float())
        shares, corrections = [], []
        for beta in own["betas"]:
            shares.append(torch.where(skipped, 0.0, torch.full_like(A[0, 0, 0], 1 - beta)))
            corrections.append((1 - torch.pow(beta, kept["step"].to(A.dtype)))[:, None, None])
        found_A, found_B_t = torch.empty_like(A), torch.empty_like(B_t)
        at_once = max(1, _AT_ONCE // (B_t.shape[2] * A.shape[2]))
        for start in range(0, len(A), at_once):
            part = slice(start, start + at_once)
            mean, square = kept["exp_avg"][part], kept["exp_avg_sq"][part]
            left = torch.cat([B_t[part], gradient_B_t[part]], 1).mT
            gradient = (left @ torch.cat([gradient_A[part], A[part]], 1)).mul_(scale)
            mean.lerp_(gradient, shares[0])
            square.lerp_(gradient.mul_(gradient), shares[1])
            size = torch.div(square, corrections[1][part], out=gradient).sqrt_().add_(own["eps"])
            direction = torch.div(mean, corrections[0][part]).div_(size)
            found_A[part] = (B_t[part] @ direction).mul_(scale)
            found_B_t[part] = (A[part] @ direction.mT).mul_(scale)
        return found_A.flatten(0, 1), found_B_t.flatten(0, 1)


def _unless(skipped: torch.Tensor, pair: Sequence[torch.Tensor]) -> Pair:
    """Zeros where `skipped`."""
    of_A, of_B = (torch.where(skipped, 0.0, rows) for rows in pair)
    return of_A, of_B
