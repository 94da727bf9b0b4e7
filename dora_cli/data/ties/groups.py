"""Groups of examples that share a text, or are parts of one text.

Two texts are the same if their words are, whatever white space stands around and between these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dora_cli.data.ties.fragments import whole_texts

Groups = Sequence[tuple[int, ...]]
"""The groups of every example, one for most of them. An example in several groups is a part of several texts that
otherwise have nothing to do with each other: it belongs to all of them and ties none."""


def tie_texts(texts: Sequence[Sequence[str]], *, fragments: bool) -> Groups:
    """The groups of every example of a split.

    Examples that have a text in common, in whichever column, are in one group, and so are those that hang together by
    a third. An empty text ties nothing.

    Args:
        texts: one column of texts or two, as `Examples` has them.
        fragments: whether examples may be parts of others, of one column: then a text whose words stand side by side
            in other texts is in the groups of those of them that are part of no other.
    """
    numbers: dict[str, int] = {}
    columns = [[numbers.setdefault(text, len(numbers)) for text in _plain(column)] for column in texts]
    empty = numbers.get("", -1)
    if fragments and len(columns) == 1:
        found = whole_texts(list(numbers))
        return [(len(numbers) + row,) if number == empty else found[number] for row, number in enumerate(columns[0])]
    joined = _join(columns, len(numbers), empty)
    return [
        (next((joined[number] for number in row_numbers if number != empty), len(numbers) + row),)
        for row, row_numbers in enumerate(zip(*columns, strict=True))
    ]


def _plain(column: Sequence[str]) -> Iterator[str]:
    return (" ".join(text.split()) for text in column)


def _join(columns: Sequence[Sequence[int]], count: int, empty: int) -> Sequence[int]:
    """The smallest of the `count` numbers that hangs together with each, where the numbers of a row do."""
    above = list(range(count))
    if len(columns) == 1:
        return above

    def top(number: int) -> int:
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    for one, other in zip(*columns, strict=True):
        if one != empty and other != empty:
            low, high = sorted((top(one), top(other)))
            above[high] = low
    return [top(number) for number in range(count)]
