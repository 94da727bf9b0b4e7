"""Tables whose fields are separated by something else than the ending of their name says."""

from __future__ import annotations

import csv
from pathlib import Path

from dora_cli.files import open_regular

_OF = {".csv": ",", ".tsv": "\t"}
_NAMES = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
_LINE = 2**16
"""Bytes of a header that are looked at."""


def separator_fault(path: Path) -> str | None:
    """What to say of a csv or tsv that is one column by its name's ending, but several by another separator; None if it
    is as it should be.

    Spreadsheets write a csv with semicolons where a comma stands within numbers.
    """
    own = _OF[path.suffix]
    with open_regular(path) as file:
        header = file.readline(_LINE).decode("utf-8-sig", errors="replace")
    found = {separator: _fields(header, separator) for separator in _NAMES}
    if found[own] > 1:
        return None
    other = max(_NAMES, key=lambda separator: found[separator])
    if found[other] < 2:
        return None
    said = f"{path}: its fields are separated by {_NAMES[other]}, those of a {path.suffix} by {_NAMES[own]}"
    renamed = next((suffix for suffix, separator in _OF.items() if separator == other), None)
    if renamed == ".tsv" and '"' in header:  # a tsv is not quoted
        renamed = None
    return f"{said}; " + (f"give its name the ending {renamed}" if renamed else f"save it with {_NAMES[own]}")


def _fields(header: str, separator: str) -> int:
    return len(next(csv.reader([header], delimiter=separator), []))
