"""The global selection: exact counts and documented ties."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_cli.methods.low_rank.allocator import select


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


@settings(max_examples=250, deadline=None, derandomize=True)
@given(cases())
def test_equals_a_plain_sort(case: tuple[list[list[float]], int]) -> None:
    scores, budget = case
    keep = select(torch.tensor(scores, dtype=torch.float64), budget)
    assert keep.dtype == torch.bool
    assert keep.is_contiguous()
    assert int(keep.sum()) == budget
    assert keep.tolist() == by_hand(scores, budget)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases())
def test_no_pruned_component_beats_a_live_one(case: tuple[list[list[float]], int]) -> None:
    scores, budget = torch.tensor(case[0], dtype=torch.float64), case[1]
    keep = select(scores, budget)
    if 0 < budget < scores.numel():
        assert float(scores[keep].min()) >= float(scores[~keep].max())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases())
def test_a_smaller_budget_keeps_a_subset(case: tuple[list[list[float]], int]) -> None:
    scores = torch.tensor(case[0], dtype=torch.float64)
    kept = [select(scores, budget) for budget in range(scores.numel() + 1)]
    assert all(bool((smaller <= larger).all()) for smaller, larger in itertools.pairwise(kept))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_permuting_distinct_scores_permutes_the_selection(rows: int, columns: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    scores = torch.randperm(rows * columns, generator=generator).double().view(rows, columns)
    budget = data.draw(st.integers(0, rows * columns))
    permutation = torch.randperm(rows * columns, generator=generator)
    permuted = select(scores.view(-1)[permutation].view(rows, columns), budget)
    assert torch.equal(permuted.view(-1), select(scores, budget).view(-1)[permutation])


@settings(max_examples=100, deadline=None, derandomize=True)
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
