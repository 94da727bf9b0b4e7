"""Tables whose fields are separated by something else than the ending of their name says."""

from __future__ import annotations

import csv
from pathlib import Path

from dora_cli.files import open_regular

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
"""What ``data.separator`` may be."""
_OF = {".csv": ",", ".tsv": "\t"}
_NAMES = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
_LINE = 2**16
"""Bytes of a header that are looked at."""


def separator_fault(path: Path) -> str | None:
    """What to say of a csv or tsv that is one column by its name's ending, but several by another separator; None if it
    is as it should be.

    Spreadsheets write a csv with semicolons where a comma stands within numbers.
    """
    own, header = _OF[path.suffix], _header(path)
    other = likely_separator(path)
    if other is None:
        return None
    said = f"{path}: its fields are separated by {_NAMES[other]}, those of a {path.suffix} by {_NAMES[own]}"
    renamed = next((suffix for suffix, separator in _OF.items() if separator == other), None)
    if renamed == ".tsv" and '"' in header:  # a tsv is not quoted
        renamed = None
    key = f"set data.separator: {next(name for name, sign in SEPARATORS.items() if sign == other)}"
    return f"{said}; {key}, or " + (f"give its name the ending {renamed}" if renamed else f"save it with {_NAMES[own]}")


def likely_separator(path: Path) -> str | None:
    """The separator by which the header has several columns, where it has one by that of the name's ending."""
    header = _header(path)
    found = {separator: _fields(header, separator) for separator in _NAMES}
    other = max(_NAMES, key=lambda separator: found[separator])
    return other if found[_OF[path.suffix]] < 2 <= found[other] else None


def separator_for(path: Path, wanted: str | None) -> str:
    """What separates the fields of a csv or tsv: the separator called `wanted` where its header has that, else that of
    its name's ending.
    """
    own = _OF[path.suffix]
    return SEPARATORS[wanted] if wanted is not None and _fields(_header(path), SEPARATORS[wanted]) > 1 else own


def _header(path: Path) -> str:
    with open_regular(path) as file:
        return file.readline(_LINE).decode("utf-8-sig", errors="replace")


def _fields(header: str, separator: str) -> int:
    return len(next(csv.reader([header], delimiter=separator), []))
