"""What stands beside what: pictures in rows that are always full, so that none is left alone beside a void.

A row is `WHOLE` units wide. A picture takes 2, 3 or 6 of them: in a window of medium width pictures stand in pairs, in
a wide one in threes, and where the number of pictures does not come out even, some rows hold another number instead of
one picture being left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WHOLE = 6
SLOT, HALF = 370, 570
"""The widest picture that a third and a half of a wide window have room for, in pixels."""


@dataclass(frozen=True)
class Spans:
    """Units that one picture takes, in a window of medium width and in a wide one."""

    medium: int
    wide: int

    @property
    def classes(self) -> str:
        return f"m{self.medium} w{self.wide}"


def pairs(count: int) -> list[int]:
    """So many pictures two to a row; of an odd number the last three share one."""
    if count == 1:
        return [WHOLE]
    return [3] * count if count % 2 == 0 else [3] * (count - 3) + [2] * 3


def threes(count: int) -> list[int]:
    """So many pictures three to a row; those that would be left over stand in pairs, first."""
    if count == 1:
        return [WHOLE]
    paired = {0: 0, 1: 4, 2: 2}[count % 3]
    return [3] * paired + [2] * (count - paired)


def spans(maps: Sequence[int], charts: int) -> list[Spans]:
    """For rank maps of such widths (pixels they need to be whole) and, after them, so many charts."""
    return [Spans(medium, wide) for medium, wide in zip(_medium(maps, charts), _wide(maps, charts), strict=True)]


def _medium(maps: Sequence[int], charts: int) -> list[int]:
    """Small maps stand among the charts where they get half a row; others have rows of their own."""
    count = len(maps) + charts
    if all(need <= SLOT for need in maps) and (count % 2 == 0 or len(maps) <= count - 3):
        return pairs(count) if count else []
    return [WHOLE] * len(maps) + (pairs(charts) if charts else [])


def _wide(maps: Sequence[int], charts: int) -> list[int]:
    """Small maps stand among the charts, those of a middle width in pairs, the last one perhaps beside a chart."""
    if all(need <= SLOT for need in maps):
        return threes(len(maps) + charts) if maps or charts else []
    if max(maps) > HALF:
        return [WHOLE] * len(maps) + (threes(charts) if charts else [])
    found = [3] * len(maps)
    if len(maps) % 2 and charts not in (0, 2):  # of two charts one would be left over
        found.append(3)
        charts -= 1
    elif len(maps) % 2:
        found[-1] = WHOLE
    return found + (threes(charts) if charts else [])


def per_row(count: int, most: int) -> int:
    """How many of `count` things stand in each row, at most `most`, so that rows are about equally long."""
    rows = -(-count // most)
    return -(-count // max(rows, 1))
