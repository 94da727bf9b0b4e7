"""The official GLUE files: one task's folder with train.tsv, dev.tsv and test.tsv.

UTF-8, one row per line, fields separated by tabs, no quoting: a ``"`` is part of the text. MRPC starts with a
byte-order mark, CoLA's train and dev have no header row, and test files have no label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dora_cli.data.examples import Examples
from dora_cli.data.sources.official import find_official
from dora_cli.data.sources.tables import CANNOT_READ, no_examples
from dora_cli.data.sources.values import check_not_wide, label_ids, not_utf8, parse_labels, quoted
from dora_cli.errors import DataError
from dora_cli.files import text_lines
from dora_cli.wording import plural

if TYPE_CHECKING:
    from dora_cli.data.sources.fields import Fields, TsvLayout


def read_glue_tsv(fields: Fields, layout: TsvLayout, folder: Path, split: str) -> Examples:
    """Examples of `split` from the official files in `folder`.

    Raises:
        DataError: a missing folder, file or column, a row with a wrong number of fields, an unknown label, bytes that
            are no UTF-8; names the file and the line.
    """
    files = {name: (file,) for name, file in layout.files.items()}
    path = find_official(fields.task, "glue-tsv", folder, files, split, inner=layout.folder)
    lines = _lines(path)
    names = layout.headerless.get(split)
    if names is None:
        header = next(lines, None)
        if header is None:
            raise DataError(
                f"{path}: the file is empty; a header row was expected: take the file from the release again"
            )
        names = tuple(header[1])
    wanted = [*layout.texts, layout.label] if fields.complete(split) or layout.label in names else [*layout.texts]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(
            f"{path}: no column {quoted(missing)}; the header has {quoted(names)}. Is this the "
            f"{layout.folder} folder of GLUE?"
        )
    positions = [names.index(name) for name in wanted]

    numbers: list[int] = []
    columns: list[list[str]] = [[] for _ in wanted]
    broken = 0
    for number, row in lines:
        if len(row) != len(names):
            broken += 1
            if broken > layout.broken_rows:
                raise DataError(_wrong_fields(path, number, row, names, layout.broken_rows))
            continue
        numbers.append(number)
        for column, position in zip(columns, positions, strict=True):
            column.append(row[position])
    if not numbers:
        raise no_examples(str(path))
    texts = tuple(columns[: len(layout.texts)])
    if len(wanted) == len(layout.texts):
        return Examples(texts, None)
    ids = None if layout.labels is None else label_ids(fields, layout.labels)
    return Examples(texts, parse_labels(fields, columns[-1], ids, lambda i: f"{path}, line {numbers[i]}"))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers (from 1) and fields.

    Only a line feed ends a line: texts contain other characters that Unicode counts as line ends.
    """
    blank: int | None = None
    try:
        check_not_wide(path)
        for number, raw in enumerate(text_lines(path), start=1):
            line = raw.rstrip("\r\n")
            if not line:
                # Blank lines are harmless at the end of the file only, so the first is remembered until another row
                # follows.
                blank = blank or number
                continue
            if blank is not None:
                raise DataError(f"{path}, line {blank}: the line is blank; remove it")
            yield number, line.split("\t")
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {CANNOT_READ}") from None


def _wrong_fields(path: Path, number: int, row: list[str], names: tuple[str, ...], tolerated: int) -> str:
    also = f" (and {plural(tolerated, 'row')} before it, more than the official file has)" if tolerated else ""
    return (
        f"{path}, line {number}: {plural(len(row), 'field')}{also}, expected {len(names)} ({', '.join(names)}), "
        "separated by tabs, without quoting; fix or remove the line"
    )
