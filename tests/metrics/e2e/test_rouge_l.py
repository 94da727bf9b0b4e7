from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora_cli.metrics.e2e.rouge_l import longest_common_subsequence, rouge_l

words = st.lists(st.sampled_from("abcd"), max_size=12)


def table(first: list[str], second: list[str]) -> int:
    """The textbook's table."""
    row = [0] * (len(second) + 1)
    for token in first:
        above, row = row, [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if token == other else max(above[place + 1], row[place]))
    return row[-1]


@given(words, words)
def test_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    assert longest_common_subsequence(first, second) == table(first, second)


def test_longer_than_a_machine_word() -> None:
    first, second = [str(i % 7) for i in range(200)], [str(i % 5) for i in range(150)]
    assert longest_common_subsequence(first, second) == table(first, second) > 64


def test_by_hand() -> None:
    # "a b" in common with the first: 2 of the output's 4 words; "c" is all of the second. P = 2/4, R = 1, beta^2 =
    # 1.44.
    value = rouge_l([list("abcd")], [[list("abxyzw"), ["c"]]])
    assert value == pytest.approx(2.44 * 0.5 * 1.0 / (1.0 + 1.44 * 0.5))


def test_recall_weighs_more() -> None:
    # P = 1, R = 1/2: (2.44 * 0.5) / (0.5 + 1.44); P = 1/2, R = 1: (2.44 * 0.5) / (1 + 0.72).
    assert rouge_l([["a"]], [[["a", "b"]]]) == pytest.approx(1.22 / 1.94)
    assert rouge_l([["a", "b"]], [[["a"]]]) == pytest.approx(1.22 / 1.72)


def test_it_is_the_mean_over_outputs() -> None:
    assert rouge_l([["a"], ["b"]], [[["a"]], [["c"]]]) == pytest.approx(0.5)


def test_texts_without_tokens() -> None:
    assert rouge_l([[]], [[["a"]]]) == 0.0
    assert rouge_l([["a"]], [[[]]]) == 0.0
    assert rouge_l([[]], [[[]]]) == 1.0  # as in the original, where both are one empty token
