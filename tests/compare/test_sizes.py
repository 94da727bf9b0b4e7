"""Ranks of a given size, against every possible one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import pytest

from dora_cli.compare.sizes import TOLERANCE, alike, ranks_of_size, stored

MINILM = {f"layer.{block}.{name}": cost for block in range(6) for name, cost in (
    ("query", 768), ("key", 768), ("value", 768), ("out", 768), ("up", 1920), ("down", 1920),
)}  # fmt: skip


def nearest(costs: Mapping[str, int], target: float) -> float:
    """The least distance to `target` of all sums in which a projection has one of two neighbouring ranks, tried out."""
    rank = int(target // sum(costs.values()))
    sums = {rank * sum(costs.values())}
    for cost in costs.values():
        sums |= {each + cost for each in sums}
    return min(abs(each - target) for each in sums)


def test_even_targets_are_met_exactly() -> None:
    for rank in (1, 2, 7):
        assert ranks_of_size(MINILM, rank * sum(MINILM.values())) == dict.fromkeys(MINILM, rank)


def test_what_is_left_is_at_most_half_of_the_largest_component() -> None:
    draw = random.Random(1)
    for _ in range(500):
        costs = {f"p{index}": draw.randint(2, 60) for index in range(draw.randint(1, 12))}
        target = draw.uniform(min(costs.values()), 5 * sum(costs.values()))
        ranks = ranks_of_size(costs, target)
        left = target - stored(costs, ranks)
        assert max(ranks.values()) - min(ranks.values()) <= 1
        assert abs(left) >= nearest(costs, target) - 1e-9
        assert abs(left) <= max(costs.values()) / 2
        assert alike(stored(costs, ranks), target, max(costs.values()))
        more = [cost for name, cost in costs.items() if ranks[name] == min(ranks.values())]
        assert all(abs(left - cost) >= abs(left) for cost in more), "one component more is not nearer"


def test_equal_costs_come_as_near_as_any_ranks_can() -> None:
    costs = dict.fromkeys("abcdefg", 10)
    for target in range(6, 250):
        assert abs(stored(costs, ranks_of_size(costs, target)) - target) == nearest(costs, target)


def test_real_shapes_against_all_sums() -> None:
    """Two costs, 24 and 12 of each, to within half of the smaller one; of some size that is half a percent."""
    every = sum(MINILM.values())
    for target in range(every, 4 * every, 97):
        found = abs(stored(MINILM, ranks_of_size(MINILM, target)) - target)
        assert nearest(MINILM, target) <= found <= 768 / 2
        assert found <= TOLERANCE * target or target < 384 / TOLERANCE


@pytest.mark.parametrize("target", [1, 767, 768, 1000, 5000])
def test_less_than_one_rank_each(target: int) -> None:
    ranks = ranks_of_size(MINILM, target)
    assert set(ranks.values()) <= {0, 1}
    assert any(ranks.values()), "an adapter without a component is none"
    assert abs(stored(MINILM, ranks) - target) <= 768


def test_single_ones_are_spread_over_the_model() -> None:
    """Half of a rank more: neither one end of the model nor one kind of projection gets all of it."""
    costs = {f"{block}.{name}": 10 for block in range(12) for name in "qkvoud"}
    ranks = ranks_of_size(costs, 1.5 * sum(costs.values()))
    extra = [name for name, rank in ranks.items() if rank == 2]
    assert len(extra) == 36
    by_block = [sum(name.startswith(f"{block}.") for name in extra) for block in range(12)]
    by_kind = [sum(name.endswith(kind) for name in extra) for kind in "qkvoud"]
    assert max(by_block) - min(by_block) <= 2
    assert max(by_kind) - min(by_kind) <= 4
    assert all(abs(sum(by_block[:half]) - 3 * half) <= 2 for half in range(13))


def test_alike() -> None:
    assert alike(1000, 1005)
    assert not alike(1000, 1006)
    assert alike(1000, 1010, component=10)
    assert all(alike(*pair) for pair in itertools.product([0, 0], repeat=2))
