"""Words that messages of all rooms share."""

from __future__ import annotations

import json
from collections.abc import Collection


def plural(count: int, word: str) -> str:
    """``1 run``, ``2 runs``, ``1,024 components``."""
    return f"{count:,} {word}" + ("" if count == 1 or word.endswith("s") else "s")


def span(values: Collection[int]) -> str:
    """The least and the greatest of `values`: ``85 to 1,052``, or the one there is."""
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def last_names(keys: Collection[str]) -> dict[str, str]:
    """The last name of each of a recipe's keys, which people call it by: ``rank`` of ``method.rank``. Keys that would
    share one keep their whole names.
    """
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def spelled(value: object) -> str:
    """A recipe's value as names and sentences have it: a text as it is, else in JSON."""
    return value if isinstance(value, str) else json.dumps(value)
