"""The global selection: which components live under a budget. Pure."""

from __future__ import annotations

import torch


def select(scores: torch.Tensor, budget: int) -> torch.Tensor:
    """Marks exactly `budget` components with the highest scores.

    The published code prunes every score at or below a threshold, so ties overshoot the budget; here the count is
    exact. Ties fall evenly over projections: of equal scores, the component that stands last in its projection is
    pruned first.

    Args:
        scores: ``(projections, r0)``, finite.
        budget: components to keep, ``0 <= budget <= scores.numel()``.

    Returns:
        A boolean tensor of the shape of `scores`; True marks a live component. No host synchronisation.
    """
    assert 0 <= budget <= scores.numel(), f"budget {budget} outside 0..{scores.numel()}"
    # Component-major and last component first, so that a stable ascending sort breaks ties as documented.
    order = scores.mT.flip(0).reshape(-1).sort(stable=True).indices
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[order[: scores.numel() - budget]] = False
    return keep.view(scores.mT.shape).flip(0).mT.contiguous()
