"""What a damaged disk or a hostile author may do to one file.

Everything follows from a `random.Random` and the file's bytes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

Edit = Callable[[Random, bytes], bytes]
"""New bytes of a file for its old ones."""

_DEEP: Any = 0
for _ in range(60):
    _DEEP = [_DEEP]

VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**53, 2**63, 2**64, 10**30, 10**400, 0.5, -1.0, 1e308, 1e-320,
    float("nan"), float("inf"),
    "", "1", "../../../escaped", "/escaped", "C:\\escaped", "\x00",
    "\x1b[2J\x07", "\ud800", "x" * 5000, "F64", "BOOL", "F8_E5M2",
    "[bold]", "~nobody/x", "\x9b31m", "\u202e", "two\nlines", "\r", [], {}, [1, 2], [-1, -1], [2**62, 2**62], [0],
    {"a": 1},
    {"step": 1, "epoch": 1}, [[0, 1], [2]], ["\x1b]0;title\x07"], {"\x1b[31mred": 1}, _DEEP,
)  # fmt: skip

TEXTS = (
    b"", b"\x00",
    b"{",
    b"[" * 20_000, b"[" * 20_000 + b"]" * 20_000, b'{"a":' * 20_000, b"9" * 5000, b"null", b"[]", b"{}", b'"text"',
    b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"schema_version": ' + b"1" * 4999 + b"}", b'{"schema_version": 2}', b"NaN",
    b"{} {}", b"\r", b"\n\n",
    b"\xc3\x28", b"\xed\xa0\x80",
    b"\x1b[2J", b"\xc2\x9b31m", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\t", b'"', b",", b"x" * 70_000,
)  # fmt: skip

FRAGMENTS = (
    ("!!python/object/apply:os.system ['touch "
    "escaped']"), "!!python/name:os.system", "!!binary aGk=", "!!set {a}", "!!timestamp 2001-01-01",
    "!own {a: 1}", "&a [*a]", "&a {b: *a}", "*nowhere", "<<: {a: 1}", "? [a]\n: b",
    "[" * 2000, "{a: " * 500, "9" * 5000, "1e999",
    "-.inf", ".nan", "0x" + "f" * 5000, "1" + ":1" * 3000, "2001-99-99", "\x00", "\ud800", '"\\ud800"',
    '"\\e[2J"', "\u2028", "\ufeff", "'",
    '"\\UFFFFFFFF"', "%YAML 9.9\n---\n", "---", "...", "!<tag:yaml.org,2002:python/object/new:os.system> [x]",
    ("a: &x [1,1,1]\nb: &y [*x,*x,*x]\nc: &z "
    "[*y,*y,*y]"), "|\n ", "- ", "# ", "\t", "null", "{}", "[]", "-1", "0", "1.5", "true", "~", "x",
)  # fmt: skip


def change_bytes(draw: Random, content: bytes) -> bytes:
    """Flips, cuts, doubles or replaces bytes."""
    kind = draw.choice(("flip", "cut", "insert", "replace", "twice"))
    text = draw.choice(TEXTS)
    if kind == "replace" or not content:
        return text
    at = draw.randrange(len(content))
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + text[: draw.choice((64, 64, len(text)))] + content[at:]
    if kind == "twice":
        return content[:at] + content[max(0, at - 100) :]
    return content[:at] + bytes([content[at] ^ draw.randrange(1, 256)]) + content[at + 1 :]


# JSON -----------------------------------------------------------------------------------------------------------------


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += _paths(child, (*path, key))
    return found


def _change_value(draw: Random, value: Any) -> Any:
    """`value` with one change at one of its places."""
    value = copy.deepcopy(value)
    path, new = draw.choice(_paths(value)), draw.choice(VALUES)
    kind = draw.choice(("set", "set", "set", "delete", "rename", "twice", "add"))
    if not path:
        return {} if kind == "delete" else new
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    name = new[:100] if isinstance(new, str) else "renamed"
    if kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[name] = holder.pop(key)
    elif kind == "add" and isinstance(holder, dict):
        holder[name] = holder[key]
    elif kind == "twice" and isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[key] = new
    return value


def change_values(draw: Random, value: Any) -> Any:
    """A JSON value with one or two changes."""
    for _ in range(draw.randint(1, 2)):
        value = _change_value(draw, value)
    return value


def dump(value: Any) -> bytes:
    """JSON, with half surrogate pairs as they are and characters of a terminal's or as escapes."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _dump(draw: Random, value: Any) -> bytes:
    return dump(value) if draw.random() < 0.5 else json.dumps(value).encode()


def change_json(draw: Random, content: bytes) -> bytes:
    """Changes values of a JSON file."""
    return _dump(draw, change_values(draw, json.loads(content)))


def change_json_lines(draw: Random, content: bytes) -> bytes:
    """Changes one line of a file of JSON lines."""
    rows = content.splitlines(keepends=True)
    at = draw.randrange(len(rows))
    rows[at] = change_json(draw, rows[at]) + b"\n" if draw.random() < 0.8 else change_bytes(draw, rows[at])
    return b"".join(rows)


def change_tensors(draw: Random, content: bytes) -> bytes:
    """Changes the header of a safetensors file, its length field, or the data behind it."""
    size = struct.unpack("<Q", content[:8])[0]
    head, data = content[8 : 8 + size], content[8 + size :]
    kind = draw.choice(("header", "header", "header", "length", "data", "pad"))
    if kind == "length":
        return struct.pack("<Q", draw.choice((0, 1, 2, 8, 2**20, 100_000_001, 2**31, 2**63, 2**64 - 1))) + content[8:]
    if kind == "data":
        word = draw.choice((b"\xff" * 8, b"\x00" * 8, b"\x00\x00\xc0\x7f" * 2, b"\x00\x00\x80\xff" * 2, b"\x01"))
        at = draw.randrange(max(len(data), 1))
        return content[: 8 + size] + data[:at] + word + data[at + len(word) :]
    if kind == "pad":
        return content + b"\x00" * draw.choice((1, 8, 4096))
    new = _dump(draw, change_values(draw, json.loads(head)))
    return struct.pack("<Q", len(new)) + new + data


# YAML and tables ------------------------------------------------------------------------------------------------------


def change_yaml(draw: Random, content: bytes) -> bytes:
    """Puts YAML's traps anywhere into a text, or changes a value: JSON is YAML too."""
    if draw.random() < 0.4:
        import yaml

        return dump(change_values(draw, yaml.safe_load(content)))
    text = content.decode()
    for _ in range(draw.randint(1, 3)):
        at, fragment = draw.randint(0, len(text)), draw.choice(FRAGMENTS)
        if draw.random() < 0.5 and ": " in text:  # in the place of a value
            at = draw.choice([i + 2 for i in range(len(text)) if text[i : i + 2] == ": "])
        text = text[:at] + fragment + text[at + draw.randint(0, 12) :]
    return text.encode("utf-8", "surrogatepass")


CELLS = (
    "", " ", "\x00",
    "\x1b[2J", "\r", '"', '""', "'", "\t", ",", "NA", "null", "-1", "1_5", "1e999", "nan", "inf", "7" * 5000,
    "x" * 70_000,
    "word " * 3000, "\u202e", "\ufeff", "\u2028", "\x85", "\ufffd", "=1+1", "\U0001f600" * 50, "true", "\x9b31m",
    "two\nlines", "\u200b",
)  # fmt: skip


def change_table(draw: Random, content: bytes) -> bytes:
    """Changes cells, rows, the header or the encoding of lines of text or delimited fields."""
    kind = draw.choice(("cell", "cell", "header", "row", "encoding", "ends", "field"))
    text = content.decode()
    if kind == "encoding":
        code = draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7"))
        return (text[:30] + "\xe9" + text[30:]).encode(code, "replace")
    if kind == "ends":
        return text.replace("\n", draw.choice(("\r", "\r\n", "\n\n", "\u2028", "\x0b", " \n"))).encode()
    rows = text.split("\n")
    at = 0 if kind == "header" else draw.randrange(len(rows))
    mark = next((mark for mark in "\t," if mark in text), ",")
    cells = rows[at].split(mark)
    place = draw.randrange(len(cells))
    cell = draw.choice(CELLS)
    if kind == "field":
        cells[place : place + draw.randint(0, 1)] = [] if draw.random() < 0.3 else [cell] * draw.choice((1, 2, 3, 50))
    elif kind == "row":
        return "\n".join([*rows[:at], cell, *rows[at + draw.randint(0, 2) :]]).encode()
    else:
        cells[place] = draw.choice((cell, cells[place] + cell, cell + cells[place], f'"{cell}"'))
    rows[at] = mark.join(cells)
    return "\n".join(rows).encode()


# Files ----------------------------------------------------------------------------------------------------------------

_OWN: dict[str, Edit] = {
    ".json": change_json, ".jsonl": change_json_lines, ".safetensors": change_tensors, ".yaml": change_yaml,
    ".csv": change_table,
    ".tsv": change_table, ".txt": change_table,
}  # fmt: skip


def change(draw: Random, name: str, content: bytes) -> bytes:
    """What fits the kind of file that `name` is, or bytes at random."""
    own = _OWN.get(Path(name).suffix, change_bytes)
    if draw.random() < 0.2:
        return change_bytes(draw, content)
    try:
        return own(draw, content)
    except Exception:  # an earlier change has made it something else
        return change_bytes(draw, content)


def swap(draw: Random, path: Path) -> None:
    """Puts something else in the place of a file."""
    kind = draw.choice(("pipe", "zero", "huge", "folder", "gone", "empty", "dangling", "loop", "random"))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "huge":
            with path.open("wb") as file:
                file.truncate(3 << 30)
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "random":
            path.write_bytes(draw.randbytes(draw.choice((1, 100, 10_000))))


MOST_EDITED = 1 << 26
"""Bytes of a file whose content is changed."""


def edit_file(draw: Random, path: Path, *, times: Sequence[int] = (1, 1, 1, 2)) -> None:
    """Changes the content of `path`, or now and then what it is."""
    if draw.random() < 0.08:
        swap(draw, path)
        return
    if path.stat().st_size > MOST_EDITED:  # an earlier change made it huge
        return
    content = path.read_bytes()
    for _ in range(draw.choice(times)):
        content = change(draw, path.name, content)
    path.write_bytes(content)


def sign(folder: Path) -> None:
    """Makes the manifest of `folder` hold again, as the author of its files can."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        path = folder / name
        if path.is_file() and path.stat().st_size < 1 << 30:
            content = path.read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
