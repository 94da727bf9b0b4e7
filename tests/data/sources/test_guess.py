"""Which columns hold texts and labels, as far as names and values tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dora_cli.data.sources.guess import guess_columns
from dora_cli.data.sources.tables import Table
from dora_cli.errors import OptionError

LONG = ["a long text of its own", "another text, longer still", "and one more text", "the last of four texts"]


def table(**columns: Sequence[Any]) -> Table:
    return Table("own.csv", columns, 4, lambda row: f"row {row}")


@pytest.mark.parametrize(
    ("columns", "numbers", "texts", "label"),
    [
        ({"text": LONG, "label": "abab"}, False, ("text",), "label"),
        ({"Review": LONG, "Class": "abab"}, False, ("Review",), "Class"),
        ({"x": LONG, "kind": "abab", "id": [1, 2, 3, 4]}, False, ("x",), "kind"),
        ({"short": ["a b", "c d", "e f", "g h"], "x": LONG, "n": [1, 2, 3, 4], "y": "aabb"}, False, ("x",), "y"),
        ({"question1": LONG, "question2": LONG, "label": [0, 1, 0, 1]}, False, ("question1", "question2"), "label"),
        ({"text": LONG, "verdict": "abab", "price": ["1.5", "2", "7", "3"]}, True, ("text",), "price"),
        ({"text": LONG, "n": [5, 6, 7, 8], "weight": [0.5, 0.1, 0.4, 0.4]}, True, ("text",), "weight"),
    ],
)
def test_columns(columns: dict[str, Any], numbers: bool, texts: tuple[str, ...], label: str) -> None:
    guess = guess_columns(table(**columns), numbers=numbers)
    assert (guess.texts, guess.label) == (texts, label)


def test_the_user_knows_better() -> None:
    given = table(text=LONG, label="abab", title=LONG, topic="aabb")
    guess = guess_columns(given, numbers=False, texts=["title", "text"], label="topic")
    assert (guess.texts, guess.label, guess.others) == (("title", "text"), "topic", ("label",))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"texts": ["body"]}, r"--text body: own\.csv has no such column; it has 'n', 'm'"),
        ({"label": "body"}, "--label body: "),
        ({"texts": ["n"], "label": "n"}, "name the same column"),
        ({"texts": ["n", "m", "k"]}, "--text k: "),
        ({}, "no column looks like a text; say which is: --text NAME"),
        ({"texts": ["n"]}, "no column looks like numbers; say which is: --label NAME"),
    ],
)
def test_what_cannot_be_guessed(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        guess_columns(table(n=[1, 2, 3, 4], m=[1, 2, 3, 4]), numbers=True, **arguments)
