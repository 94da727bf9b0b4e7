"""Words that messages of all rooms share."""

from __future__ import annotations


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``, ``1,024 components``."""
    return f"{count:,} {word}" + ("" if count == 1 or word.endswith("s") else "s")
