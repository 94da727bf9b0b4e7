"""Round numbers for the axes of charts."""

from __future__ import annotations

import math

ROUND = (1, 2, 2.5, 5)
"""Steps between ticks, times a power of ten."""
MOST_LOG = 7
"""Ticks of a logarithmic axis at most."""


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> tuple[float, ...]:
    """At most `most` round numbers at even distances from `low` to `high`, both included where they are round.

    Args:
        low: the end of the axis; below `high`.
        high: its other end.
        most: at least 2.
        whole: whether only integers will do.
    """
    assert low < high and most >= 2
    power = math.floor(math.log10((high - low) / most))
    for decade in (power, power + 1, power + 2):
        for factor in ROUND:
            step = factor * 10.0**decade
            if whole and (step < 1 or step != int(step)):
                continue
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 <= most:
                return tuple(round(index * step, 12) for index in range(first, last + 1))
    return (0.0,)  # whole numbers of an axis shorter than one


def log_ticks(low: float, high: float, most: int = MOST_LOG) -> tuple[float, ...]:
    """Round numbers from `low` to `high`, both positive, for a logarithmic axis.

    As many of 1, 2 and 5 in each decade as are no more than `most`, or some of the decades; none where the range holds
    none.
    """
    assert 0 < low < high
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 5), (1,)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    return tuple(found[:: -(-len(found) // most) or 1])


def labels(values: tuple[float, ...]) -> tuple[str, ...]:
    """The values with as many decimals as tell them apart; thousands separated, from a million on in millions."""
    largest = max(map(abs, values), default=0)
    unit, suffix = (1e6, "M") if largest >= 1e6 else (1.0, "")
    if largest and largest < 1e-4:
        return tuple(f"{value:.3g}" if value else "0" for value in values)
    for decimals in range(8):
        written = [f"{value / unit:,.{decimals}f}" for value in values]
        pairs = zip(written, values, strict=True)
        if all(
            math.isclose(float(one.replace(",", "")) * unit, value, rel_tol=1e-9, abs_tol=1e-12) for one, value in pairs
        ):
            break
    return tuple(one + suffix if value else "0" for one, value in zip(written, values, strict=True))


def short(value: float, digits: int = 3) -> str:
    """A number of any size as people write learning rates, with so many digits: ``1e-4``, ``5.62e-4``, ``0.02``."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
