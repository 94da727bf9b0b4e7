"""Texts that are parts of others, against looking for each in all."""

from __future__ import annotations

import numpy as np
import pytest

from dora_cli.data.ties import fragments
from dora_cli.data.ties.fragments import whole_texts


def by_looking(texts: list[str]) -> list[tuple[int, ...]]:
    """The same, by comparing every text with every other."""
    inside = [
        [other for other, longer in enumerate(texts) if other != index and f" {text} " in f" {longer} "]
        for index, text in enumerate(texts)
    ]
    return [tuple(other for other in found if not inside[other]) or (index,) for index, found in enumerate(inside)]


def drawn(words: int, sentences: int, longest: int, seed: int) -> list[str]:
    """Sentences of few different words, and spans of them."""
    draw = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for _ in range(sentences):
        sentence = [f"w{n}" for n in draw.integers(words, size=draw.integers(1, longest + 1))]
        found[" ".join(sentence)] = None
        for _ in range(5):
            start, end = sorted(draw.integers(len(sentence) + 1, size=2))
            if start < end:
                found[" ".join(sentence[start:end])] = None
    return [list(found)[index] for index in draw.permutation(len(found))]


@pytest.mark.parametrize(
    ("words", "sentences", "longest"),
    [(2, 30, 9), (3, 40, 17), (50, 40, 33), (1, 20, 40), (1000, 20, 3), (4, 1, 1)],
)
@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_that_looking_finds(words: int, sentences: int, longest: int, seed: int) -> None:
    texts = drawn(words, sentences, longest, seed)
    assert whole_texts(texts) == by_looking(texts)


def test_places_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = drawn(3, 40, 17, 7)
    whole = whole_texts(texts)
    monkeypatch.setattr(fragments, "_AT_ONCE", 10)
    assert whole_texts(texts) == whole


def test_none_and_one() -> None:
    assert whole_texts([]) == []
    assert whole_texts(["a b"]) == [(0,)]
    assert whole_texts(["a b", ""]) == [(0,), (1,)]
    assert whole_texts(["b", "a b a b"]) == [(1,), (1,)]  # which is there twice
