"""Lines of JSON files: which one is broken, and on which one a row stands.

`datasets` reads these files, but what it says of a broken one counts from 0, within a block of bytes, or not at all.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dora_cli.data.sources.tables import CANNOT_READ
from dora_cli.data.sources.values import Where, kind_of, not_utf8
from dora_cli.errors import DataError
from dora_cli.files import DEPTH, LINE, WHOLE, lines, parse_json, read_bytes, read_text, text_lines

_SURROGATES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""Any escape of JSON; a surrogate that is no half of a pair is a `half`."""


def check_characters(path: Path) -> None:
    r"""Raises a DataError if a text of a json or jsonl file holds half of a surrogate pair, an escape such as
    ``\ud800`` on its own.

    That is no character. Of the readers behind `datasets` one drops it without a word, the other gives no line.
    """
    for number, line in enumerate(lines(path, limit=_limit(path)), start=1):
        half = (
            next((found["half"] for found in _SURROGATES.finditer(line) if found["half"]), None)
            if b"\\u" in line
            else None
        )
        if half is not None:
            raise DataError(
                f"{path}, line {number}: the text holds \\{half.decode()} on its own, half of a surrogate pair, which "
                "is no character; fix the line, or have the program that wrote it write UTF-8 without escapes"
            )


def json_fault(path: Path) -> DataError | None:
    """The error for a json or jsonl file that could not be read; None if it is JSON all the same."""
    try:
        return _fault(path)
    except UnicodeDecodeError:
        return not_utf8(path)
    except OSError as error:
        return DataError(f"{path}: cannot be read: {error.strerror or error}; {CANNOT_READ}")


def _fault(path: Path) -> DataError | None:
    first = next(_lines(path), None)
    if first is None:
        return DataError(f"{path}: holds blank lines alone; write the examples into it")
    if _is_list(first[1]) or (path.suffix == ".json" and isinstance(_parsed(first[1]), ValueError)):
        whole = _parsed(read_text(path, WHOLE))
        if isinstance(whole, ValueError):
            return _not_json(path, whole, getattr(whole, "lineno", 1))
        return _odd_row(path, "row", enumerate(whole, start=1)) if isinstance(whole, list) else None
    for number, line in _lines(path):
        found = _parsed(line)
        if isinstance(found, ValueError):
            return _not_json(path, found, number)
    return _odd_row(path, "line", ((number, _parsed(line)) for number, line in _lines(path)))


def is_unsafe(path: Path) -> bool:
    """Whether the reader behind `datasets` might break down over it: brackets nested without end, or rows that are null
    throughout.
    """
    if path.suffix == ".json":
        content = read_bytes(path, WHOLE)
        return _deep(content) or not (
            content.removeprefix(_MARK).lstrip().startswith(b"[") or all(map(_object, content.split(b"\n")))
        )
    return any(
        not _object(line) or (line.count(b"[") + line.count(b"{") > DEPTH and _deep(line)) for line in lines(path)
    )


def _object(line: bytes) -> bool:
    """Whether a line begins an object, or holds nothing."""
    return line.removeprefix(_MARK).lstrip()[:1] in (b"{", b"")


def _deep(text: bytes) -> bool:
    """Brackets within strings do not count; a string that its line does not close is none."""
    level = 0
    for bracket in re.sub(rb'"(?:[^"\\\n]|\\.)*"', b"", text).translate(None, _NO_BRACKETS):
        level += 1 if bracket in b"[{" else -1
        if level > DEPTH:
            return True
    return False


_MARK = b"\xef\xbb\xbf"
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def row_place(path: Path, rows: int) -> Where:
    """Says where a row of a file that was read stands: by line where every line is a row, as in JSON lines, else by
    row.
    """

    @functools.cache
    def numbers() -> list[int]:
        # Read again, but only for an error: what reads the file in the first place keeps no lines.
        found: list[int] = []
        try:
            for number, line in _lines(path):
                if not found and _is_list(line):
                    return []
                if isinstance(_parsed(line), dict):
                    found.append(number)
        except (OSError, UnicodeDecodeError):  # another file has its place by now
            return []
        return found

    def where(row: int) -> str:
        return f"{path}, line {numbers()[row]}" if len(numbers()) == rows else f"{path}, row {row + 1}"

    return where


def _odd_row(path: Path, what: str, rows: Iterable[tuple[int, Any]]) -> DataError | None:
    """The error for the first of the numbered `rows` that is no object, or holds another kind of value than those
    before it.
    """
    kinds: dict[str, tuple[str, int]] = {}
    for number, row in rows:
        if not isinstance(row, dict):
            return DataError(
                f"{path}, {what} {number}: {json.dumps(row)[:40]} is no object, such as {_EXAMPLE}; fix the {what}"
            )
        for column, value in row.items():
            kind = None if value is None else kind_of(value)  # a null goes with everything
            before, place = kinds.setdefault(column, (kind, number)) if kind is not None else ("", 0)
            if kind is not None and kind != before:
                return DataError(
                    f"{path}, {what} {number}: column {column!r} holds {kind}, but {before} in {what} {place}; "
                    "give a column one kind of value"
                )
    return None


_EXAMPLE = '{"column": "value"}'
_LINES = f"every line is an object of its own, such as {_EXAMPLE}"


def _not_json(path: Path, error: ValueError, line: int) -> DataError:
    reason = (
        (f"{error.msg.removesuffix(' at')} at column {error.colno}")
        if isinstance(error, json.JSONDecodeError)
        else str(error)
    )
    return DataError(
        f"{path}, line {line}: not JSON ({reason}); fix the line" + (f": {_LINES}" if path.suffix == ".jsonl" else "")
    )


def _is_list(text: str) -> bool:
    return text.lstrip().startswith("[")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their numbers from 1."""
    return (
        (number, line.removesuffix("\n"))
        for number, line in enumerate(text_lines(path, limit=_limit(path)), start=1)
        if line.strip()
    )


def _limit(path: Path) -> int:
    """Bytes of a line. A whole list may stand on one line of a .json file."""
    return WHOLE if path.suffix == ".json" else LINE


def _parsed(text: str) -> Any | ValueError:
    try:
        return parse_json(text)
    except ValueError as error:
        return error
