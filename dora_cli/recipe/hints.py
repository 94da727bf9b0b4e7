"""The known name nearest to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name in `known` that `word` most likely stands for, None if nothing is near.

    Besides small misspellings it knows initials (``lr`` for ``learning_rate``) and beginnings (``acc`` for ``accumulation``).
    """
    names = list(known)
    plain = {name: name.lower().replace("-", "_") for name in names}
    typed = word.lower().replace("-", "_")
    close = difflib.get_close_matches(typed, plain.values(), n=1, cutoff=0.6)
    for name in names:
        if close and plain[name] == close[0]:
            return name
    if len(typed) >= 2:
        for name in names:
            if typed == "".join(part[:1] for part in plain[name].split("_")):
                return name
        for name in names:
            if plain[name].startswith(typed) or f"_{typed}" in plain[name]:
                return name
    return None
