"""How JSON is written: strict, plain values only, and laid out for a reader.

JSON has no NaN: a value that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from dora_cli.printable import escape_json

LINE_LENGTH = 140  # a list or object that fits on one line of this length is written on one


def to_jsonl(objects: Iterable[Mapping[str, Any]]) -> str:
    """`objects` as JSON lines."""
    return "".join(to_line(obj) for obj in objects)


def to_line(obj: Mapping[str, Any]) -> str:
    """`obj` as one JSON line, with its line feed."""
    return escape_json(json.dumps(plain(obj), ensure_ascii=False, allow_nan=False)) + "\n"


def to_json(obj: Any) -> str:
    """`obj` as indented JSON with a final newline; short lists and objects stay on one line. Not finite -> null."""
    return escape_json(_indented(plain(obj), 0)) + "\n"


def _indented(obj: Any, depth: int) -> str:
    line = json.dumps(obj, ensure_ascii=False, allow_nan=False)
    if not isinstance(obj, dict | list) or not obj:
        return line
    children = list(obj.values()) if isinstance(obj, dict) else obj
    flat = not any(isinstance(child, dict | list) for child in children)
    # numbers always go on one line: a column of scores a thousand lines long helps nobody
    if flat and (
        len(line) + 2 * depth <= LINE_LENGTH or all(isinstance(child, int | float | None) for child in children)
    ):
        return line
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(obj, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_indented(value, depth + 1)}" for key, value in obj.items()]
        opening, closing = "{", "}"
    else:
        items = [_indented(value, depth + 1) for value in obj]
        opening, closing = "[", "]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{outer}{closing}"


def plain(obj: Any) -> Any:
    """Plain JSON values: numpy scalars and arrays unpacked, tuples as lists, paths as strings, not finite as None."""
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value) for value in obj]
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "tolist"):  # numpy
        return plain(obj.tolist())
    raise TypeError(f"cannot be written as JSON: {obj!r}")
