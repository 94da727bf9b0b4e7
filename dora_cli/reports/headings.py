"""Short column headings for the paths of projections within a block."""

from __future__ import annotations

from collections.abc import Sequence


def headings(paths: Sequence[str]) -> list[str]:
    """The shortest dotted suffix of each path that no other path ends with, or the whole path where there is none.

    ``attention.self.query`` becomes ``query``; ``attention.output.dense`` and ``output.dense`` stay as they are,
    because ``dense`` and ``output.dense`` do not tell them apart. A heading never starts with a bare number
    (``heads.0.q``, not ``0.q``). Suffixes are what `method.targets` patterns may match, so a heading can be pasted into
    a recipe.
    """
    split = [path.split(".") for path in paths]
    return [_shortest(segments, [other for other in split if other != segments]) for segments in split]


def _shortest(segments: list[str], others: list[list[str]]) -> str:
    for length in range(1, len(segments)):
        suffix = segments[-length:]
        if not suffix[0].isdigit() and not any(other[-length:] == suffix for other in others):
            return ".".join(suffix)
    return ".".join(segments)


def stacked(heading: str, separators: str) -> list[str]:
    """A heading cut into lines before each character of `separators`: ``output.dense`` -> ``output``, ``.dense``."""
    lines = [""]
    for character in heading:
        if character in separators and lines[-1].strip(separators):
            lines.append("")
        lines[-1] += character
    return lines
