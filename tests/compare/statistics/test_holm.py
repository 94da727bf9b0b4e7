"""Holm's correction against the closed testing procedure it is a short cut for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora_cli.compare.statistics import adjusted, holm

P_VALUES = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.0125, 0.02, 0.025, 0.05, 0.3, 1.0]), min_size=1, max_size=6)


def closed(p: list[float]) -> list[float]:
    """A hypothesis is rejected at a level if every set of hypotheses that holds it is, by Bonferroni's test of the set:
    its adjusted p is the largest ``len(set) min(p of the set)``.
    """
    everyone = range(len(p))
    sets = [members for size in range(1, len(p) + 1) for members in combinations(everyone, size)]
    return [
        max(min(1.0, len(members) * min(p[other] for other in members)) for members in sets if one in members)
        for one in everyone
    ]


@given(P_VALUES)
def test_it_is_closed_testing(p: list[float]) -> None:
    assert holm(p).tolist() == pytest.approx(closed(p))


@given(P_VALUES)
def test_adjusted_values_keep_the_order_and_are_no_smaller(p: list[float]) -> None:
    found = holm(p)
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert (found >= np.array(p)).all()
    assert (found <= 1).all()


def test_an_example_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_each_row_is_a_family() -> None:
    p = np.random.default_rng(0).random((50, 4)) ** 3
    np.testing.assert_array_equal(holm(p), [holm(row) for row in p])


def test_a_test_that_cannot_be_made_counts_in_the_family() -> None:
    assert adjusted({"a": 0.02, "b": None, "c": 0.04}) == {
        "a": pytest.approx(0.06),
        "b": None,
        "c": pytest.approx(0.08),
    }
    assert adjusted({}) == {}
