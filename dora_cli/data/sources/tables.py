"""Tables from files: their columns, and where each row stands."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dora_cli.data.sources.separators import SEPARATORS, separator_fault, separator_for
from dora_cli.data.sources.values import Where, check_not_wide, not_utf8, quoted
from dora_cli.errors import DataError
from dora_cli.files import LINE, check_regular, text_lines
from dora_cli.printable import shown
from dora_cli.wording import plural

CANNOT_READ = "check that you may read it"
"""What to do about a file that the system does not hand out."""


@dataclass(frozen=True)
class Table:
    """A file's columns, and where each row stands in it.

    Attributes:
        fault: what is to be said first where a column is missing; None where nothing is known.
    """

    name: str
    columns: Mapping[str, Sequence[Any]]
    rows: int
    where: Where
    fault: str | None = None

    def take(self, kept: Sequence[int]) -> Table:
        """Some of its rows."""
        columns = {name: [column[i] for i in kept] for name, column in self.columns.items()}
        return replace(self, columns=columns, rows=len(kept), where=lambda i: self.where(kept[i]))


def check_not_empty(path: Path) -> None:
    """Raises a DataError if the file cannot be read, is no regular one or holds no bytes."""
    try:
        check_regular(path)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {CANNOT_READ}") from None
    if not size:
        raise DataError(f"{path}: the file is empty; write the examples into it, or copy it again if it was copied")


def no_examples(name: str) -> DataError:
    """The error for a file that could be read, in which there is no row."""
    return DataError(f"{name}: the file has no examples; write at least one into it, or copy it again if it was copied")


_FIX = {
    True: "fix the row that begins there: a quote that opens is closed, and a quote within a text is written twice",
    False: "fix the line, or write the file again",
}
"""What to do about a row that `csv` refuses, by whether quotes mean anything in the file."""


def read_delimited(path: Path, separator: str | None = None) -> Table:
    """Reads csv and tsv by the standard library; every value is text, line breaks in quoted fields stay as they are.

    The readers behind `datasets` guess: a text "NA" becomes null, rows that are one field longer than the header shift
    every column, and missing fields are filled in. Here every value is text, and a row that does not fit is an error
    with its line. A csv is quoted as RFC 4180 says; a tsv is not quoted, as everywhere in this field.

    Args:
        path: the file.
        separator: a name of `SEPARATORS`, for a file whose name says another; one that its header does not have is
            passed over. Fields that tabs do not separate are quoted as in a csv.

    Raises:
        DataError: an unreadable or damaged file; names the line.
    """
    check_not_empty(path)
    quoting = path.suffix == ".csv"
    sign = ","
    rows: list[list[str]] = []
    numbers: list[int] = []
    csv.field_size_limit(LINE)  # a quote that never closes would take the rest of the file
    start = 1
    fault: str | None = None
    try:
        check_not_wide(path)
        sign = separator_for(path, separator)
        fault = None if separator is not None and sign == SEPARATORS[separator] else separator_fault(path)
        quoting = quoting or sign != "\t"
        reader = (
            csv.reader(_lines(path), delimiter=sign, strict=True)
            if quoting
            else csv.reader(_lines(path), delimiter=sign, quoting=csv.QUOTE_NONE)
        )
        header = next(reader, [])
        start = reader.line_num + 1
        if len(set(header)) != len(header):
            twice = sorted(name for name, count in Counter(header).items() if count > 1)
            raise DataError(f"{path}: the header names {quoted(twice)} more than once; rename one")
        for fields in reader:
            if fields and len(fields) != len(header):
                what = "comma" if sign == "," else repr(sign)
                rule = f"a text with a {what} or a quote stands in quotes" if quoting else "a tsv is not quoted"
                raise DataError(
                    fault
                    or f"{path}, line {start}: {plural(len(fields), 'field')}, expected {len(header)} "
                    f"({shown(', '.join(header))}); fix the line ({rule})"
                )
            if fields:
                rows.append(fields)
                numbers.append(start)
            start = reader.line_num + 1
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise DataError(
            fault or f"{path}, line {start}: cannot be read as {path.suffix[1:]}: {error}; {_FIX[quoting]}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {CANNOT_READ}") from None
    columns = {name: [fields[i] for fields in rows] for i, name in enumerate(header)}
    return Table(str(path), columns, len(rows), lambda i: f"{path}, line {numbers[i]}", fault)


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends as `csv` wants them: a carriage return may end one too."""
    for line in text_lines(path):
        if "\r" in line[:-2]:
            yield from io.StringIO(line, newline="")
        else:
            yield line
