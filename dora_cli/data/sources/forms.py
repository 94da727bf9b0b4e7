"""What a stream, or a file whose name does not say it, holds: JSON, a table, or plain text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dora_cli.data.sources.columns import Columns
from dora_cli.data.sources.fields import Names
from dora_cli.data.sources.separators import SEPARATORS
from dora_cli.files import open_regular

TEXT = "text"
NAMED = ("csv", "tsv", "json", "jsonl")
"""What can be said of a stream; each is what a file of this ending holds, too."""
FORMS = (*NAMED, TEXT)
_HEAD = 1 << 16
"""Bytes that are looked at."""
_WORD = re.compile(r"[^\W\d][\w.-]{0,39}")
"""What a column is called where commas, semicolons or bars stand between names: in a sentence, a space follows them."""


class Form(NamedTuple):
    """What examples are written in.

    Attributes:
        kind: one of `FORMS`, or ``parquet``.
        separator: key of what separates the fields of a table, where that is not what its kind says.
        sure: whether it was said, or the task's own columns stand there.
    """

    kind: str
    separator: str | None = None
    sure: bool = True

    @property
    def sign(self) -> str:
        """What stands between the fields of a csv or tsv."""
        return SEPARATORS[self.separator] if self.separator else "\t" if self.kind == "tsv" else ","


def recognise(path: Path, columns: Columns, wanted: Sequence[Names], *, plain: bool) -> Form:
    """What `path` holds by its content: a first line that names the columns `wanted` is the header of a table.

    Args:
        path: a file with at least one byte.
        columns: which of a file's columns is which of ours.
        wanted: those that are needed.
        plain: whether it may be plain text, a text a line. Then a table without `wanted` is one only if its first line
            cannot be a sentence and every row has as many fields.

    Raises:
        OSError: the file cannot be read.
    """
    head = _head(path)
    if re.match(r"\s*\{", head):
        return Form("jsonl")
    if re.match(r"\s*\[\s*\{", head):
        return Form("json")
    found = named_separator(path, columns, wanted, ("comma",))
    if found is not None:
        return _table(head, found, sure=True)
    likely = _widest(head)
    if len(_header(head, likely)) < 2 or (plain and not _tabular(_rows(head, likely), likely)):
        return Form(TEXT, sure=False)
    return _table(head, likely, sure=False)


def named_separator(path: Path, columns: Columns, wanted: Sequence[Names], first: Sequence[str]) -> str | None:
    """The key of the separator by which the header of `path` has all columns `wanted`; None if there is none.

    Args:
        path, columns, wanted: as for `recognise`.
        first: keys to try before the others; that of a table of a single column is the last of them.

    Raises:
        OSError: the file cannot be read.
    """
    head = _head(path)
    for name in (*first, *SEPARATORS):
        header = _header(head, name)
        if columns.has(header, wanted):
            return name if len(header) > 1 else first[-1]
    return None


def widest_separator(path: Path, own: str) -> str | None:
    """The key of the separator by which the header of `path` has the most columns; None if it has several by `own`."""
    head = _head(path)
    return None if len(_header(head, own)) > 1 else _widest(head)


def _widest(head: str) -> str:
    return max(SEPARATORS, key=lambda name: len(_header(head, name)))


def _table(head: str, separator: str, *, sure: bool) -> Form:
    """A table with tabs is quoted as a csv where its header is, else not at all."""
    if separator == "tab" and '"' not in _first_line(head):
        return Form("tsv", sure=sure)
    return Form("csv", None if separator == "comma" else separator, sure)


def _head(path: Path) -> str:
    with open_regular(path) as file:
        return file.read(_HEAD).decode("utf-8-sig", errors="replace")


def _first_line(head: str) -> str:
    return head.partition("\n")[0]


def _header(head: str, separator: str) -> list[str]:
    return next(iter(_rows(head, separator)), [])


def _rows(head: str, separator: str) -> list[list[str]]:
    """The rows at the beginning, of which the last may be cut off."""
    unquoted = separator == "tab" and '"' not in _first_line(head)
    reader = csv.reader(
        io.StringIO(head, newline=""),
        delimiter=SEPARATORS[separator],
        quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
    )
    try:
        return [row for row in reader if row]
    except csv.Error:  # a NUL, before Python 3.11
        return []


def _tabular(rows: Sequence[Sequence[str]], separator: str) -> bool:
    names, *others = rows if len(rows) < 3 else rows[:-1]  # the last one may be cut off
    named = len(set(names)) == len(names) and all(names)
    if separator != "tab":
        named = named and all(map(_WORD.fullmatch, names))
    return named and bool(others) and all(len(row) == len(names) for row in others)
