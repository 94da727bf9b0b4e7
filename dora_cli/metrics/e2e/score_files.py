"""Outputs and references from files: the official layout in plain text, or JSON lines as a run writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dora_cli.data.sources.values import check_not_wide, not_utf8
from dora_cli.errors import DataError
from dora_cli.files import WHOLE, parse_json, read_text
from dora_cli.wording import plural


def read_pairs(predictions: Path, references: Path | None) -> tuple[list[str], list[list[str]]]:
    """Outputs, and for each its references.

    Args:
        predictions: plain text, one output a line (a blank line is an empty output); or ``.jsonl``, an object with
            ``output`` a line.
        references: plain text, for each output a block of references, one a line, with a blank line between blocks;
            without any blank line, every line is the only reference of one output. Or ``.jsonl``, an object with
            ``references`` a line. None: those in `predictions`, which must then be ``.jsonl``.

    Raises:
        DataError: a file is absent, empty, not UTF-8 or malformed, or the two do not match.
    """
    outputs = _outputs(predictions)
    if references is None:
        if not _is_jsonl(predictions):
            raise DataError(
                f"{predictions} holds outputs alone; give --references FILE, blocks of references parted by blank lines"
            )
        return outputs, _jsonl_references(predictions)
    wanted = _jsonl_references(references) if _is_jsonl(references) else _blocks(references, outputs=len(outputs))
    if len(outputs) != len(wanted):
        raise DataError(
            f"{predictions} has {plural(len(outputs), 'output')} but {references} has references for {len(wanted):,}; "
            "they must match one to one: a line of the first (blank for an empty output), a block of the second"
        )
    return outputs, wanted


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _outputs(path: Path) -> list[str]:
    if _is_jsonl(path):
        return [_text(record, "output", where) for where, record in _records(path)]
    return [line.strip() for line in _lines(path)]


def _blocks(path: Path, *, outputs: int) -> list[list[str]]:
    """The blocks of a file, or its lines as blocks of one where it has no blank line and a single output does not ask
    for one block.
    """
    blocks: list[list[str]] = [[]]
    lines = _lines(path)
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: holds blank lines alone; give a block of at least one reference for each output")
    while not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            blocks[-1].append(line.strip())
        elif blocks[-1]:
            blocks.append([])
        else:
            raise DataError(
                f"{path}, line {number}: an empty block of references; part blocks by one blank line, begin with none"
            )
    return [[line] for line in blocks[0]] if len(blocks) == 1 and outputs != 1 else blocks


_FORMAT = "give plain text (outputs: one a line; references: blocks parted by blank lines) or .jsonl"


def _lines(path: Path) -> list[str]:
    """The lines of a plain text file that is not empty; a line break at its end begins no line."""
    if path.suffix.lower() in (".csv", ".tsv"):
        raise DataError(f"{path}: a table; {_FORMAT}")
    text = _read(path)
    if not text:
        raise DataError(f"{path}: the file is empty; {_FORMAT}")
    return text.removesuffix("\n").split("\n")


def _read(path: Path) -> str:
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give a file")
    try:
        check_not_wide(path)
        return read_text(path, WHOLE)
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check that you may read it") from None


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a ``.jsonl`` file, and where each stands; blank lines are none."""
    found = False
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        found, where = True, f"{path}, line {number}"
        try:
            record = parse_json(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); every line is an object such as {_EXAMPLE}") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: {_short(record)} is no object such as {_EXAMPLE}; fix the line")
        yield where, record
    if not found:
        raise DataError(f"{path}: the file is empty; give an object a line, such as {_EXAMPLE}")


_EXAMPLE = '{"output": "...", "references": ["...", "..."]}'


def _jsonl_references(path: Path) -> list[list[str]]:
    found = []
    for where, record in _records(path):
        wanted = record.get("references")
        if not isinstance(wanted, list) or not wanted:
            given = f"is {_short(wanted)}" if "references" in record else "is missing"
            raise DataError(
                f"{where}: 'references' {given}; it must be a list of at least one text, or give --references FILE"
            )
        found.append([_text({"references": text}, "references", where) for text in wanted])
    return found


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: {key!r} {f'holds {_short(value)}' if key in record else 'is missing'}; it must be a text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: {key!r} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        ) from None
    return value.strip()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
