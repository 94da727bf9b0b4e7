"""Seeded draws that give the same values on every Python version.

Only `random.Random.random` is promised to repeat its sequence between versions, so everything here is made from it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of draws from one integer seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound - 1``, all equally likely."""
        return int(self._random() * bound)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.below(len(items))]

    def pick_two(self, items: Sequence[T]) -> tuple[T, T]:
        """Two items at different places, in either order."""
        first = self.below(len(items))
        second = self.below(len(items) - 1)
        return items[first], items[second + (second >= first)]

    def weighted(self, items: Sequence[tuple[T, int]]) -> T:
        """One of the items, as likely as its whole-number weight says."""
        place = self.below(sum(weight for _, weight in items))
        for item, weight in items:
            place -= weight
            if place < 0:
                return item
        raise AssertionError("a draw lies below the sum of the weights")
