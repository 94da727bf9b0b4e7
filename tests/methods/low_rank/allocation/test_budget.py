"""The global selection: exact counts and costs, and documented ties."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_cli.methods.low_rank.allocation.budget import BUDGETS, select


def by_hand(scores: list[list[float]], budget: int) -> list[list[bool]]:
    """Lowest first; of equal scores, the last in its projection first, then the earlier projection."""
    order = sorted((score, -i, row) for row, line in enumerate(scores) for i, score in enumerate(line))
    keep = [[True] * len(line) for line in scores]
    for _, negative, row in order[: len(order) - budget]:
        keep[row][-negative] = False
    return keep


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], int]:
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    # Few values, so that ties abound.
    value = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 3, allow_subnormal=False))
    scores = draw(st.lists(st.lists(value, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    return scores, draw(st.integers(0, rows * columns))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_equals_a_plain_sort(case: tuple[list[list[float]], int]) -> None:
    scores, budget = case
    keep = select(torch.tensor(scores, dtype=torch.float64), budget)
    assert keep.dtype == torch.bool
    assert keep.is_contiguous()
    assert int(keep.sum()) == budget
    assert keep.tolist() == by_hand(scores, budget)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_no_pruned_component_beats_a_live_one(case: tuple[list[list[float]], int]) -> None:
    scores, budget = torch.tensor(case[0], dtype=torch.float64), case[1]
    keep = select(scores, budget)
    if 0 < budget < scores.numel():
        assert float(scores[keep].min()) >= float(scores[~keep].max())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_a_smaller_budget_keeps_a_subset(case: tuple[list[list[float]], int]) -> None:
    scores = torch.tensor(case[0], dtype=torch.float64)
    kept = [select(scores, budget) for budget in range(scores.numel() + 1)]
    assert all(bool((smaller <= larger).all()) for smaller, larger in itertools.pairwise(kept))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_permuting_distinct_scores_permutes_the_selection(rows: int, columns: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    scores = torch.randperm(rows * columns, generator=generator).double().view(rows, columns)
    budget = data.draw(st.integers(0, rows * columns))
    permutation = torch.randperm(rows * columns, generator=generator)
    permuted = select(scores.view(-1)[permutation].view(rows, columns), budget)
    assert torch.equal(permuted.view(-1), select(scores, budget).view(-1)[permutation])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases(), st.integers(-20, 20))
def test_a_common_scale_changes_nothing(case: tuple[list[list[float]], int], exponent: int) -> None:
    # Powers of two keep ties ties; the EMA's missing bias correction is such a common factor.
    scores, power = torch.tensor(case[0], dtype=torch.float64), 2.0**exponent
    assert torch.equal(select(scores * power, case[1]), select(scores, case[1]))


def test_all_equal_falls_evenly_and_from_the_end() -> None:
    scores = torch.ones(3, 4)
    assert select(scores, 9).tolist() == [[True, True, True, False]] * 3
    assert select(scores, 7).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]


@pytest.mark.parametrize("budget", range(13))
def test_ties_never_overshoot(budget: int) -> None:
    # The published code's `score <= threshold` would prune all twelve.
    assert int(select(torch.zeros(3, 4), budget).sum()) == budget


def test_extremes() -> None:
    scores = torch.rand(3, 4)
    assert select(scores, 12).all()
    assert not select(scores, 0).any()
    assert select(torch.tensor([[0.7]]), 1).tolist() == [[True]]


def test_whole_projections_can_vanish_and_fill() -> None:
    scores = torch.tensor([[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]])
    assert select(scores, 3).tolist() == [[False, False], [True, True], [False, True]]


def test_input_is_left_alone_and_repeats_agree() -> None:
    scores = torch.rand(20, 12).round(decimals=1)
    before = scores.clone()
    first = select(scores, 100)
    assert torch.equal(scores, before)
    assert torch.equal(first, select(scores, 100))


@pytest.mark.parametrize("budget", [-1, 7])
def test_a_budget_out_of_range_is_our_own_mistake(budget: int) -> None:
    with pytest.raises(AssertionError, match=r"outside 0\.\.6"):
        select(torch.zeros(2, 3), budget)


# Costs, bounds and what may live at all -------------------------------------------------------------------------------


def test_what_a_component_costs() -> None:
    assert {name: cost((7, 5)) for name, cost in BUDGETS.items()} == {"components": 1, "parameters": 12}


def walked(
    values: list[list[float]],
    budget: int,
    costs: list[int],
    candidates: list[list[bool]] | None = None,
    least: int = 0,
    most: int | None = None,
) -> list[list[bool]]:
    """The greedy walk, literally: what each projection is owed first, then by value per cost."""
    rows, columns = len(values), len(values[0])
    candidates = candidates or [[True] * columns for _ in values]
    places = [sorted(range(columns), key=lambda i, row=row: (-row[i], i)) for row in values]
    ranked = [[i for i in place if candidates[row][i]] for row, place in enumerate(places)]
    owed = {(row, i) for row, place in enumerate(ranked) for i in place[:least]}
    visits = [(row, i) for row in range(rows) for i in range(columns) if candidates[row][i]]
    visits.sort(key=lambda at: (at not in owed, -values[at[0]][at[1]] / costs[at[0]], at[1], -at[0]))
    keep, left, ranks = [[False] * columns for _ in values], budget, [0] * rows
    for row, i in visits:
        if costs[row] <= left and (most is None or ranks[row] < most):
            keep[row][i] = True
            left -= costs[row]
            ranks[row] += 1
    return keep


@st.composite
def costly(draw: st.DrawFn) -> dict[str, Any]:
    scores, _ = draw(cases())
    rows, columns = len(scores), len(scores[0])
    costs = draw(st.lists(st.sampled_from([1, 2, 4, 5, 9, 12]), min_size=rows, max_size=rows))
    least = draw(st.integers(0, columns))
    candidates = st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    return {
        "values": scores,
        "budget": draw(st.integers(least * sum(costs), columns * sum(costs))),
        "costs": costs,
        "candidates": draw(st.none() | candidates),
        "least": least,
        "most": draw(st.none() | st.integers(least, columns)),
    }


def selected(case: dict[str, Any]) -> torch.Tensor:
    values, candidates = torch.tensor(case["values"], dtype=torch.float64), case["candidates"]
    masks = None if candidates is None else torch.tensor(candidates)
    return select(values, case["budget"], case["costs"], candidates=masks, least=case["least"], most=case["most"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(costly())
def test_equals_the_walk(case: dict[str, Any]) -> None:
    assert selected(case).tolist() == walked(**case)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(costly())
def test_bounds_hold_and_less_than_the_dearest_cost_is_left(case: dict[str, Any]) -> None:
    keep, costs = selected(case), torch.tensor(case["costs"])
    possible = torch.ones_like(keep) if case["candidates"] is None else torch.tensor(case["candidates"])
    most = keep.shape[1] if case["most"] is None else case["most"]
    ranks, there = keep.sum(1), possible.sum(1)
    assert not (keep & ~possible).any()
    assert bool((ranks <= most).all())
    assert bool((ranks >= there.clamp(max=case["least"])).all())
    spent, open_to_it = int(ranks @ costs), int(there.clamp(max=most) @ costs)
    assert spent <= case["budget"]
    assert spent == open_to_it or case["budget"] - spent < max(case["costs"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_no_selection_is_worth_more_than_the_walk_says(data: st.DataObject) -> None:
    """Against all subsets: beyond what is kept up to the first that does not fit, a budget's rest is worth at most that
    one's value per cost (Dantzig's bound); of equal costs, and where all fit that are visited, none is worth more.
    """
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    values = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    costs = data.draw(st.lists(st.sampled_from([3, 3, 5, 8]), min_size=rows, max_size=rows))
    budget = data.draw(st.integers(0, columns * sum(costs)))
    keep = select(values, budget, costs).view(-1)
    value, cost = values.view(-1), torch.tensor(costs).repeat_interleave(columns)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=rows * columns)))
    affordable = subsets[(subsets.long() @ cost) <= budget].double()
    best, found = float((affordable @ value).max()), float(value[keep].sum())
    order = (value / cost).argsort(descending=True)
    over = (cost[order].cumsum(0) > budget).nonzero()
    if not len(over):
        assert keep.all()
        return
    first = int(over[0])
    prefix, refused = order[:first], order[first]
    bound = float(value[prefix].sum() + (budget - cost[prefix].sum()) * value[refused] / cost[refused])
    assert found <= best + 1e-12
    assert best <= bound + 1e-12
    assert float(value[prefix].sum()) <= found + 1e-12
    if len(set(costs)) == 1:
        assert found == pytest.approx(best, abs=1e-12)


def test_a_cheap_component_takes_what_a_dear_one_leaves() -> None:
    # value per cost 1.0, 0.9, 0.5: the second of the dear ones does not fit into the 4 that are left, the cheap does
    values, costs = torch.tensor([[8.0, 7.2], [1.0, 0.0]]), [8, 2]
    assert select(values, 12, costs).tolist() == [[True, False], [True, True]]
    assert select(values, 11, costs).tolist() == [[True, False], [True, False]]


def test_a_dear_component_that_does_not_fit_is_not_taken_later() -> None:
    # three costs: after 9 of 14, neither 6 nor 7 fits, 5 does
    values = torch.tensor([[9.0], [5.7], [5.6], [1.0]])
    assert select(values, 14, [9, 6, 7, 5]).tolist() == [[True], [False], [False], [True]]


def test_every_projection_keeps_its_best_and_none_has_more_than_allowed() -> None:
    values = torch.tensor([[9.0, 8.0, 7.0, 6.0], [0.1, 0.3, 0.2, 0.0]])
    assert select(values, 4).tolist() == [[True] * 4, [False] * 4]
    assert select(values, 4, least=1).tolist() == [[True, True, True, False], [False, True, False, False]]
    assert select(values, 4, most=3).tolist() == [[True, True, True, False], [False, True, False, False]]
    assert select(values, 4, least=1, most=2).tolist() == [[True, True, False, False], [False, True, True, False]]


def test_what_is_gone_does_not_come_back() -> None:
    values = torch.tensor([[9.0, 1.0], [2.0, 3.0]])
    there = torch.tensor([[False, True], [True, True]])
    assert select(values, 2, candidates=there).tolist() == [[False, False], [True, True]]
    assert select(values, 3, candidates=there, least=1).tolist() == there.tolist()
    assert select(values, 4, candidates=there).tolist() == there.tolist()  # a budget for more than there is


@pytest.mark.parametrize("costs", [[1], [1, 0], [1, 2, 3]])
def test_costs_that_do_not_fit_are_our_own_mistake(costs: list[int]) -> None:
    with pytest.raises(AssertionError, match="positive cost"):
        select(torch.ones(2, 2), 1, costs)


def test_a_budget_below_what_is_owed_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="2 of each projection"):
        select(torch.ones(2, 2), 5, [1, 2], least=2)


def test_what_is_worth_infinity_lives_before_all_else() -> None:
    values = torch.tensor([[9.0, math.inf], [math.inf, 1.0]])
    assert select(values, 3).tolist() == [[True, True], [True, False]]
    # the cheap one of worth 9 is left out for the dear one of worth infinity
    assert select(values, 4, [1, 3]).tolist() == [[False, True], [True, False]]
