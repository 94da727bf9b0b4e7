"""Texts that are parts of other texts.

The words of all texts stand in one array. Two spans of `n` words are equal if their first and their last ``2^k`` words
are, where ``2^k <= n < 2^(k+1)``; and spans of ``2^k`` words are told apart by a number each, made of the numbers of
their halves (prefix doubling: Karp, Miller and Rosenberg 1972). Everything is exact, and no text is compared with all
others: only with those that hold the rarer one of its two spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int64]
_AT_ONCE = 1 << 22
"""Places that are looked at together, which bounds the memory."""


def whole_texts(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """For every text the whole texts that contain it, which are those that are part of no other: their indices,
    ascending. A whole text has its own index.

    Args:
        texts: different from each other, words joined by one space; an empty one counts as part of no other.
    """
    inner, outer = _contained(texts)
    whole = np.ones(len(texts), dtype=bool)
    whole[inner] = False
    pairs = np.unique(np.stack([inner, outer], axis=1)[whole[outer]], axis=0)
    ends = np.cumsum(np.bincount(pairs[:, 0], minlength=len(texts))).tolist()
    found, outers = list[tuple[int, ...]](), pairs[:, 1].tolist()
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        found.append(tuple(outers[start:end]) if end > start else (index,))
    return found


def _contained(texts: Sequence[str]) -> tuple[_Ints, _Ints]:
    """Pairs of texts, as two arrays of indices, of which the first is a part of the second; some of them twice."""
    numbers: dict[str, int] = {}
    words = [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in texts]
    lengths = np.array([len(each) for each in words], dtype=np.int64)
    ends = np.cumsum(lengths)
    spans = np.array([number for each in words for number in each], dtype=np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    pairs = [(np.empty(0, dtype=np.int64),) * 2]
    width, left = 1, np.flatnonzero(lengths)
    while len(left):
        counts = np.bincount(spans)
        begin, end = spans[(ends - lengths)[left]], spans[ends[left] - width]
        left = left[(counts[begin] > 1) & (counts[end] > 1)]  # what is only there once is part of nothing
        wanted = left[lengths[left] < 2 * width]
        pairs += _found(spans, width, wanted, lengths, ends, owner)
        left = left[lengths[left] >= 2 * width]
        if len(left):
            spans = _doubled(spans, width)
        width *= 2
    return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])


def _doubled(spans: _Ints, width: int) -> _Ints:
    """A number for the span of twice the `width` from every word on; one for all that the end cuts."""
    halves = spans[:-width] * (int(spans.max()) + 1) + spans[width:]
    _, found = np.unique(halves, return_inverse=True)
    return np.concatenate([found, np.full(width, int(found.max()) + 1)])


def _found(
    spans: _Ints, width: int, wanted: _Ints, lengths: _Ints, ends: _Ints, owner: _Ints
) -> Iterator[tuple[_Ints, _Ints]]:
    """Where the `wanted` texts, of at least `width` words and less than twice as many, are parts of others.

    Args:
        spans: the number of the span of `width` words from every word on.
        lengths: words of every text.
        ends: behind its last word.
        owner: the text of every word.
    """
    order, counts = np.argsort(spans, kind="stable"), np.bincount(spans)
    firsts = np.cumsum(counts) - counts
    begin, end = spans[(ends - lengths)[wanted]], spans[ends[wanted] - width]
    by_end = counts[end] < counts[begin]
    rarer = np.where(by_end, end, begin)
    ahead = np.where(by_end, lengths[wanted] - width, 0)
    batches = np.cumsum(counts[rarer]) // _AT_ONCE
    for batch in np.unique(batches):
        part = np.flatnonzero(batches == batch)
        times = counts[rarer[part]]
        offsets = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        places = order[np.repeat(firsts[rarer[part]], times) + offsets]
        inner, at, outer = np.repeat(wanted[part], times), places - np.repeat(ahead[part], times), owner[places]
        fits = (at >= (ends - lengths)[outer]) & (at + lengths[inner] <= ends[outer]) & (inner != outer)
        inner, at, outer = inner[fits], at[fits], outer[fits]
        begins = spans[at] == spans[(ends - lengths)[inner]]
        same = begins & (spans[at + lengths[inner] - width] == spans[ends[inner] - width])
        yield inner[same], outer[same]
