"""What may live under a budget: what a component costs, and the selection among all of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

Cost = Callable[[tuple[int, int]], int]
"""What one component of a projection costs, by the shape ``(d_out, d_in)`` of its weight."""


def _one(shape: tuple[int, int]) -> int:
    return 1


BUDGETS: Mapping[str, Cost] = {"components": _one, "parameters": sum}
"""What a budget counts: components, or the ``d_in + d_out`` numbers that are stored of each; its gate is folded into
them."""


def select(
    values: torch.Tensor,
    budget: int,
    costs: Sequence[int] | None = None,
    *,
    candidates: torch.Tensor | None = None,
    least: int = 0,
    most: int | None = None,
) -> torch.Tensor:
    """Marks the components that live: greedily by value per cost, each that still fits into `budget`.

    Components are visited in the order of their value over their cost, highest first, and each is kept whose cost the
    budget still has. A cheap one may so follow a dear one that did not fit, and what is left over in the end is less
    than the dearest cost; of equal costs, exactly as many live as the budget pays for. (The published code prunes every
    score at or below a threshold, so that ties overshoot.) The first `least` of each projection come before all others,
    and none has more than `most`.

    Ties fall evenly over projections: of equal ones, the component that stands last in its projection goes first.

    Args:
        values: what each component is worth, ``(projections, r0)``: a number, or infinity for what comes before all.
        budget: what those that live may cost together; at least what `least` of each projection cost.
        costs: of a component of each projection, positive; None is 1 each.
        candidates: of the shape of `values`, which may live at all; None is all of them.
        least: how many of each projection live whatever they are worth, where there are so many candidates.
        most: how many of one projection may live; None is no bound.

    Returns:
        A boolean tensor of the shape of `values`; True marks a live component. No host synchronisation but for a copy
        of `costs` to the device.
    """
    rows, columns = values.shape
    costs = [1] * rows if costs is None else list(costs)
    total = columns * sum(costs)
    assert len(costs) == rows and min(costs) > 0, "a positive cost for each projection"
    assert 0 <= budget <= total, f"budget {budget} outside 0..{total}"
    assert least * sum(costs) <= budget, f"{least} of each projection cost more than the budget {budget}"
    cost = torch.tensor(costs, device=values.device)[:, None].expand(rows, columns)
    possible = torch.ones_like(values, dtype=torch.bool) if candidates is None else candidates
    place = _places(values, possible)
    owed = _line(possible & (place < least))
    order = _line(values / cost).sort(stable=True).indices
    order = order[owed[order].to(torch.int8).sort(stable=True).indices].flip(0)
    fits = possible if most is None else possible & (place < most)
    keep = torch.empty(rows * columns, dtype=torch.bool, device=values.device)
    keep[order] = _greedy(_line(cost)[order], _line(fits)[order], budget, kinds=len(set(costs)))
    return keep.view(columns, rows).flip(0).mT.contiguous()


def _line(grid: torch.Tensor) -> torch.Tensor:
    """One row of ``(projections, r0)``: component by component, the last ones first, so that a stable ascending sort
    breaks ties as documented.
    """
    return grid.mT.flip(0).reshape(-1)


def _places(values: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
    """How many of its projection come before each component: those that may live, by value, then by position."""
    order = values.masked_fill(~possible, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=order.device)
    return torch.empty_like(order).scatter_(1, order, places.expand_as(order))


def _greedy(costs: torch.Tensor, fits: torch.Tensor, budget: int, kinds: int) -> torch.Tensor:
    """Visits components in order and keeps each that still fits into `budget`.

    Where one does not fit, what is left of the budget is below its cost for good, so that all later ones that cost as
    much do not fit either. A round finds the first that does not and takes those away; `kinds` rounds are enough.

    Args:
        costs: ``(components,)``, in the order of visits.
        fits: which are visited at all.
        budget: what may be spent.
        kinds: how many different costs there are.

    Returns:
        Which are kept, ``(components,)``.
    """
    position = torch.arange(len(costs), device=costs.device)
    for _ in range(kinds):
        over = fits & ((costs * fits).cumsum(0) > budget)
        first = torch.where(over, position, len(costs)).min()
        dear = costs[first.clamp_max(len(costs) - 1).view(1)]
        fits = fits & ((position < first) | (costs < dear))
    return fits
