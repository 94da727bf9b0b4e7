"""Numbers as people read them: times, sizes, counts, metric values.

All ASCII, so that any terminal and log file can show them.
"""

from __future__ import annotations

import math


def duration(seconds: float | None) -> str:
    """``3.2s``, ``42s``, ``3m05s`` or ``2h05m``; ``-`` if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"


def size(count: int | None) -> str:
    """Bytes in binary units: ``512 B``, ``33.9 MiB``, ``2.1 GiB``; ``-`` if unknown."""
    if count is None:
        return "-"
    value = float(count)
    if value < 1024:
        return f"{count} B"
    for unit in ("KiB", "MiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} GiB"


def number(value: float | None) -> str:
    """A metric or loss with four decimals; ``-`` if undefined, such as a correlation with constant predictions."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def speed(value: float | None) -> str:
    """A rate with three significant digits, never in scientific notation: ``0.48``, ``38.2``, ``1240``; ``-`` if
    unknown.
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
