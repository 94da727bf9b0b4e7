"""Penn Treebank tokens in pure Python, lower-cased and without punctuation: for ROUGE-L and CIDEr where Java is not at
hand.

The Treebank's conventions for plain English, as far as E2E text needs them: punctuation stands apart, clitics ('s, n't)
are split off, words joined by hyphens or slashes stay whole, a currency sign stands before its number (£ is written #),
brackets become -lrb- and -rrb- (which the MS-COCO evaluation means to remove but, being in lower case by then, does
not). How often this agrees with Stanford's PTBTokenizer is measured in a test; where Java is at hand, the original is
used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that the MS-COCO evaluation removes."""

_SPELLINGS = {
    "£": "#", "€": "$", '"': "''", "“": "``", "”": "''", "‘": "`", "–": "--", "—": "--", "…": "...",
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "st", "rd", "ave", "etc", "jr", "sr", "vs", "co", "inc", "ltd"})
"""They keep their full stop."""

_PIECE = re.compile(
    r"""
      # pub, coffee/tea, area.It, 5out
      (?P<word>   [dlo]['’][^\W\d_]{2,} | \d* [^\W\d_]\w* (?: [-/&] \w+ | [.!?] [^\W\d_]\w* )* )
      # 20, 1,000, 10:30, 3/5, 20-25, 5-star
    | (?P<number> [-+]? \d+(?:[.,:]\d+)* (?:/\d+)? (?:-\w+)* )
    | (?P<clitic> ['’] (?:s|m|d|re|ve|ll) \b )
    | (?P<mark>   [^\w\s] | _+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NEGATION = re.compile(r"['’]t\b", re.IGNORECASE)


def treebank_tokens(text: str) -> list[str]:
    """Tokens of one text, lower-cased, without punctuation.

    Every run of white space, line breaks included, counts as one space.
    """
    return [token for token in _tokens(" ".join(text.split()).lower()) if token not in PUNCTUATION]


def _tokens(line: str) -> Iterator[str]:
    position = 0
    while piece := _PIECE.search(line, position):
        token, position = piece[0], piece.end()
        if piece.lastgroup == "word":
            if token.endswith("n") and (end := _NEGATION.match(line, position)):
                yield from (part for part in (token[:-1], "n't") if part)
                position = end.end()
                continue
            if token == "cannot":
                yield from ("can", "not")
                continue
            initial = re.fullmatch(r"(?:[a-z]\.)*[a-z]", token)
            last = position + 1 >= len(line)
            if line.startswith(".", position) and (
                token in _ABBREVIATIONS or (not last and (initial or line[position + 1] in ",;:"))
            ):
                token, position = f"{token}.", position + 1
        yield _SPELLINGS.get(token, token.replace("’", "'"))
