"""Round numbers for the axes of charts."""

from __future__ import annotations

import math


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> tuple[float, ...]:
    """At most `most` round numbers at even distances from `low` to `high`, both included where they are round.

    Args:
        low: the end of the axis; below `high`.
        high: its other end.
        most: at least 2.
        whole: whether only integers will do.
    """
    assert low < high and most >= 2
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    if whole:
        step = max(step, 1.0)
    for factor in (1, 2, 5, 10, 20, 50):
        first, last = math.ceil(low / (step * factor) - 1e-9), math.floor(high / (step * factor) + 1e-9)
        if last - first + 1 <= most:
            return tuple(round(index * step * factor, 12) for index in range(first, last + 1))
    raise AssertionError("one of two decades of steps fits")


def labels(values: tuple[float, ...]) -> tuple[str, ...]:
    """The values with as many decimals as tell them apart; thousands separated, from a million on in millions."""
    largest = max(map(abs, values), default=0)
    unit, suffix = (1e6, "M") if largest >= 1e6 else (1.0, "")
    if largest and largest < 1e-4:
        return tuple(f"{value:.3g}" if value else "0" for value in values)
    for decimals in range(8):
        written = [f"{value / unit:,.{decimals}f}" for value in values]
        pairs = zip(written, values, strict=True)
        if all(math.isclose(float(one.replace(",", "")) * unit, value, rel_tol=1e-9, abs_tol=1e-12) for one, value in pairs):
            break
    return tuple(one + suffix if value else "0" for one, value in zip(written, values, strict=True))
