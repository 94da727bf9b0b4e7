"""Equal sizes: ranks by which LoRA stores as many parameters as another method, to the nearest component."""

from __future__ import annotations

from collections.abc import Mapping

TOLERANCE = 0.005
"""Two sizes are equal that differ by at most this share, or by one component."""

_GOLDEN = 0.6180339887498949


def ranks_of_size(costs: Mapping[str, int], target: float) -> dict[str, int]:
    """A rank for every projection, as even as can be, whose components store `target` parameters together: the rest is
    at most half of the largest component, and no component more is nearer. Below one component there is one.

    Every projection gets the same rank; what is left of the target goes to single ones, spread over the model by steps
    of the golden ratio, so that neither the first blocks nor one kind of projection gets them all.

    Args:
        costs: parameters of one component by projection, ``d_in + d_out``, in model order.
        target: above 0.
    """
    assert costs
    assert target > 0
    every = sum(costs.values())
    rank = int(target // every)
    left = target - rank * every
    spread = sorted(costs, key=lambda name: (list(costs).index(name) * _GOLDEN) % 1.0)
    ranks = dict.fromkeys(costs, rank)
    for name in spread:
        if costs[name] <= left:
            ranks[name] += 1
            left -= costs[name]
    # one more of the smallest where that is nearer than to leave it
    smallest = min((name for name in spread if ranks[name] == rank), key=lambda name: costs[name], default=None)
    if smallest is not None and (costs[smallest] - left < left or not any(ranks.values())):
        ranks[smallest] += 1
    return ranks


def stored(costs: Mapping[str, int], ranks: Mapping[str, int]) -> int:
    """Parameters of the components of `ranks`."""
    return sum(costs[name] * rank for name, rank in ranks.items())


def alike(one: float, other: float, component: int = 0) -> bool:
    """Whether two sizes are equal within `TOLERANCE` or one component."""
    return abs(one - other) <= max(TOLERANCE * max(one, other), component)
