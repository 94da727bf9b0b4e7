"""Which columns of a table hold texts and which holds labels, guessed by their names and by what stands in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_cli.data.sources.values import as_text, is_missing, number_of, quoted
from dora_cli.errors import OptionError

if TYPE_CHECKING:
    from dora_cli.data.sources.tables import Table

_LOOKED_AT = 20_000
"""Rows that a column is judged by."""
_LABELS = (
    "label", "labels", "class", "category", "target", "y", "intent", "sentiment", "rating", "stars", "score", "topic",
    "polarity", "gold", "gold_label", "price",
)  # fmt: skip
_TEXTS = (
    "text", "sentence", "review", "comment", "message", "body", "content", "document", "description", "tweet", "post",
    "utterance", "question", "title", "abstract", "query", "input",
)  # fmt: skip
_PAIRS = (
    ("text", "text2"), ("text1", "text2"), ("sentence", "sentence2"), ("sentence1", "sentence2"),
    ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"), ("question", "passage"),
    ("question", "answer"), ("query", "document"),
)  # fmt: skip
"""Columns that are two texts of one example."""
_FEW = 20
"""So many different values are classes in any table; of a longer one a fifth of the rows may have different ones."""


@dataclass(frozen=True)
class Guess:
    """What columns are taken for.

    Attributes:
        texts: the file's columns of the one or two texts.
        label: the file's column of the label.
        others: columns that could hold texts or labels, and were not taken.
    """

    texts: tuple[str, ...]
    label: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class _Column:
    """A column as it looks.

    Attributes:
        different: how many different values it has.
        length: characters of a value on average.
        numbers: share of the values that are numbers.
        counts: whether it numbers the rows.
    """

    name: str
    rows: int
    different: int
    length: float
    numbers: float
    counts: bool

    @property
    def few(self) -> bool:
        return 2 <= self.different <= max(_FEW, self.rows // 5)


def guess_columns(table: Table, *, numbers: bool, texts: Sequence[str] = (), label: str | None = None) -> Guess:
    """What the columns of `table` are.

    Args:
        table: with at least one row.
        numbers: whether the label is a number, not a class.
        texts: the columns of the texts, where the user names them.
        label: the column of the label, likewise.

    Raises:
        OptionError: the user names a column that is not there, or nothing looks like a text or a label.
    """
    for option, name in [*(("--text", text) for text in texts), *([("--label", label)] if label is not None else [])]:
        if name not in table.columns:
            raise OptionError(f"{option} {name}: {table.name} has no such column; it has {quoted(list(table.columns))}")
    if len(texts) > 2:
        raise OptionError(f"--text is given {len(texts)} times; a model reads one text or two")
    if label in texts or len(set(texts)) < len(texts):
        raise OptionError("--text and --label name the same column; give each of them one of its own")
    seen = {name: _look(name, values) for name, values in table.columns.items()}
    free = [column for column in seen.values() if column.name not in texts and not column.counts and column.different]
    if label is None:
        label = _named(_fit_labels(free, numbers), _LABELS)
    chosen = tuple(texts) or tuple(_texts([column for column in free if column.name != label]))
    if not chosen:
        raise OptionError(f"{table.name}: no column looks like a text; say which is: --text NAME ({_names(table)})")
    if label is None:
        left = [column for column in _fit_labels(free, numbers) if column.name not in chosen]
        if not left:
            what = f"looks like {'numbers' if numbers else 'classes'}"
            raise OptionError(f"{table.name}: no column {what}; say which is: --label NAME ({_names(table)})")
        label = left[-1].name  # tables have it at their end as a rule
    others = tuple(column.name for column in free if column.name not in (*chosen, label))
    return Guess(chosen, label, others)


def _names(table: Table) -> str:
    return f"it has {quoted(list(table.columns))}"


def _look(name: str, values: Sequence[object]) -> _Column:
    given = [value for value in values[:_LOOKED_AT] if not is_missing(value)]
    words = [as_text(value) for value in given]
    found = [number for value in given if (number := number_of(value)) is not None]
    rows = len(given)
    counts = len(found) == rows > 2 and all(after - before == 1 for before, after in itertools.pairwise(found))
    return _Column(
        name,
        rows,
        len(set(words)),
        sum(map(len, words)) / max(rows, 1),
        len(found) / max(rows, 1),
        counts or name.lower() in ("", "id", "idx", "index"),
    )


def _fit_labels(columns: Sequence[_Column], numbers: bool) -> list[_Column]:
    if numbers:
        return [column for column in columns if column.numbers > 0.9]
    return [column for column in columns if column.few or column.name.lower() in _LABELS]


def _named(columns: Sequence[_Column], names: Sequence[str]) -> str | None:
    by_name = {column.name.lower(): column.name for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _texts(columns: Sequence[_Column]) -> Iterator[str]:
    """The texts among `columns`: a pair by its names, else one by its name, else the longest."""
    written = [column for column in columns if column.numbers < 0.5]
    by_name = {column.name.lower(): column.name for column in written}
    pair = next((pair for pair in _PAIRS if set(pair) <= set(by_name)), None)
    if pair is not None:
        yield from (by_name[name] for name in pair)
    elif written:
        yield _named(written, _TEXTS) or max(written, key=lambda column: column.length).name
