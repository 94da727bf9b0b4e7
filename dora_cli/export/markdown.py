"""Texts for a Markdown file that show what they say and do nothing else: no heading, no HTML, no link, no line of a
table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dora_cli.printable import shown

_PLAIN = re.compile(r"(?!www\.)[A-Za-z0-9]+(?:[-_./ ][A-Za-z0-9]+)*", re.IGNORECASE)
"""Names as nearly all are: nothing in them means anything to Markdown. ``www.`` alone becomes a link on many sites."""
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def text(given: object) -> str:
    """`given` on one line, for a paragraph, a heading or a cell."""
    words = shown(given)
    return words if _PLAIN.fullmatch(words) else _PUNCTUATION.sub(r"\\\1", words)


def code(given: object) -> str:
    """`given` on one line between backticks; not for a cell, where a bar would end it."""
    words = shown(given)
    fence = "`" * (_longest_run(words) + 1)
    space = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{space}{words}{space}{fence}"


def block(language: str, lines: Sequence[str]) -> str:
    """Lines of code, in a fence that none of them can close."""
    content = "\n".join(lines)
    fence = "`" * max(3, _longest_run(content) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def _longest_run(content: str) -> int:
    return max(map(len, re.findall("`+", content)), default=0)
