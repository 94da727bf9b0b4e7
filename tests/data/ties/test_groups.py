"""Which examples share a text."""

from __future__ import annotations

import numpy as np

from dora_cli.data.ties import tie_texts


def together(groups: list[tuple[int, ...]]) -> list[list[int]]:
    """The examples of each group, for those that have one."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group, []).append(row)
    return sorted(found.values())


def test_equal_texts_are_one_group_whatever_white_space_they_have() -> None:
    groups = tie_texts((["a film", "b", " a  film\n", "A film", "b"],), fragments=False)
    assert together(list(groups)) == [[0, 2], [1, 4], [3]]


def test_a_pair_is_tied_by_either_text_in_either_column() -> None:
    one = ["p", "p", "q", "r", "x"]
    two = ["a", "b", "c", "q", "y"]
    assert together(list(tie_texts((one, two), fragments=False))) == [[0, 1], [2, 3], [4]]


def test_chains_are_followed_as_far_as_they_go() -> None:
    """Against the closure of a matrix, on random pairs."""
    draw = np.random.default_rng(0)
    for count, texts in ((40, 60), (40, 30), (1, 3)):
        one, two = (draw.integers(texts, size=count) for _ in range(2))
        linked = np.array(
            [[bool({a, b} & {c, d}) for c, d in zip(one, two, strict=True)] for a, b in zip(one, two, strict=True)]
        )
        for _ in range(count):
            linked = linked @ linked
        expected = sorted({tuple(np.flatnonzero(row).tolist()) for row in linked})
        groups = tie_texts(([str(n) for n in one], [str(n) for n in two]), fragments=False)
        assert together(list(groups)) == [list(rows) for rows in expected]


def test_empty_texts_tie_nothing() -> None:
    assert together(list(tie_texts((["", " ", "a"],), fragments=False))) == [[0], [1], [2]]
    assert together(list(tie_texts((["", " ", "a"],), fragments=True))) == [[0], [1], [2]]
    pairs = (["a", "b", "", "", "a"], ["", "", "", "", "c"])
    assert together(list(tie_texts(pairs, fragments=False))) == [[0, 4], [1], [2], [3]]


def test_a_phrase_is_in_the_groups_of_the_sentences_that_have_it() -> None:
    texts = ["a dull film", "it is a dull film", "dull", "not dull at all", "dull  film", "so so", "it is a dull film"]
    groups = tie_texts((texts,), fragments=True)
    one, other = groups[1][0], groups[3][0]
    assert one != other
    assert list(groups) == [(one,), (one,), (one, other), (other,), (one,), groups[5], (one,)]
    assert len(groups[5]) == 1
    assert groups[5][0] not in (one, other)


def test_words_are_whole_and_in_their_order() -> None:
    groups = tie_texts((["the film is long", "film i", "is film", "lm is", "film is", "s"],), fragments=True)
    assert together(list(groups)) == [[0, 4], [1], [2], [3], [5]]


def test_pairs_have_no_phrases() -> None:
    assert together(list(tie_texts((["a b", "b"], ["c", "d"]), fragments=True))) == [[0], [1]]
