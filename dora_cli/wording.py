"""Words that messages of all rooms share."""

from __future__ import annotations

from collections.abc import Collection


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``, ``1,024 components``."""
    return f"{count:,} {word}" + ("" if count == 1 or word.endswith("s") else "s")


def span(values: Collection[int]) -> str:
    """The least and the greatest of `values`: ``85 to 1,052``, or the one there is."""
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
