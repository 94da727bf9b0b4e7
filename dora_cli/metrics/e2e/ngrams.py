"""Counting n-grams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

Tokens = Sequence[str]


def ngrams(tokens: Tokens, n: int) -> Iterator[tuple[str, ...]]:
    """The ``len(tokens) - n + 1`` n-grams of a text, in order; none of a shorter text."""
    return zip(*(tokens[start:] for start in range(n)), strict=False)


def most_in_one(texts: Iterable[Tokens], n: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs in the text that has most of it: what an output may be credited with."""
    most: Counter[tuple[str, ...]] = Counter()
    for tokens in texts:
        most |= Counter(ngrams(tokens, n))
    return most


def check(outputs: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    """Asserts one non-empty list of references per output, and at least one output."""
    assert len(outputs) == len(references), "one list of references per output"
    assert outputs, "there is at least one output"
    assert all(references), "every output has at least one reference"
