"""Examples from a user's own files: csv, tsv, json, jsonl or parquet."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.data.examples import Examples
from dora_cli.data.values import Where, check_texts, label_ids, not_utf8, parse_labels, quoted, unlabelled
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dora_cli.tasks import Task

_FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


@dataclass(frozen=True)
class _Table:
    """A file's columns, and where each row stands in it."""

    name: str
    columns: Mapping[str, Sequence[Any]]
    rows: int
    where: Where


def read_files(task: Task, folder: Path, split: str, columns: Mapping[str, str] | None, labels: Sequence[str] | None) -> Examples:
    """Examples of `split` from ``<split>.<format>`` in `folder`, or from parquet shards ``<split>-*.parquet``.

    Args:
        task: the task.
        folder: holds one file per split.
        split: the hub's name of the split, which is the file's name too.
        columns: our column names (the task's own, or sentence, sentence1, sentence2; label) to the file's. None: the file uses ours.
        labels: the labels as the file writes them, in the task's order. None: the task's names or label ids.

    Raises:
        DataError: no such folder or file, an unreadable or empty file, a missing column, a null text, an unknown label; names the file, the
            row and what is allowed.
    """
    mapped = _mapping(task, columns)
    ids = label_ids(task, labels)
    paths = _find(task, folder, split)
    table = _read(paths)
    if not table.rows:
        raise DataError(f"{table.name}: the file has no examples")
    texts = tuple(
        check_texts(table.columns[column], column, table.where)
        for column in (_column(table, ours, mapped, columns) for ours in _text_keys(task))
    )
    if not task.labelled(split):
        given = mapped.get("label", "label")
        if given not in table.columns or unlabelled(table.columns[given]):
            return Examples(texts, None)
    values = table.columns[_column(table, ("label",), mapped, columns)]
    remedy = f"mend the file, or set data.labels to the values that stand for {', '.join(task.label_names or ())}, in this order"
    return Examples(texts, parse_labels(task, values, ids, table.where, remedy))


def _text_keys(task: Task) -> list[tuple[str, ...]]:
    """Our names of each text column: the task's own first, then the general one."""
    general = ("sentence",) if len(task.text_columns) == 1 else ("sentence1", "sentence2")
    return [tuple(dict.fromkeys(names)) for names in zip(task.text_columns, general, strict=True)]


def _mapping(task: Task, columns: Mapping[str, str] | None) -> dict[str, str]:
    known = [*(name for names in _text_keys(task) for name in names), "label"]
    unknown = [key for key in columns or {} if key not in known]
    if unknown:
        raise DataError(f"data.columns: {quoted(unknown)} is no column of {task.name}; columns: {quoted(known)}")
    for names in _text_keys(task):
        twice = [name for name in names if name in (columns or {})]
        if len(twice) > 1:
            raise DataError(f"data.columns: {quoted(twice)} name the same column of {task.name}; keep one")
    return dict(columns or {})


def _column(table: _Table, ours: tuple[str, ...], mapped: Mapping[str, str], columns: Mapping[str, str] | None) -> str:
    """The file's name of one of our columns."""
    key = next((name for name in ours if name in mapped), None)
    candidates = (mapped[key],) if key is not None else ours
    for name in candidates:
        if name in table.columns:
            return name
    present = f"it has {quoted(list(table.columns))}"
    if key is not None:
        raise DataError(f"{table.name}: no column {candidates[0]!r}, which data.columns gives for {key!r}; {present}")
    raise DataError(
        f"{table.name}: no column {' or '.join(map(repr, candidates))}; {present}. Set data.columns: {{{ours[0]}: <the file's name of it>}}"
    )


def _find(task: Task, folder: Path, split: str) -> list[Path]:
    names = f"{split}.{{{','.join(_FORMATS)}}}"
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.path: {str(folder)!r} {what}; data.source files looks in a folder for one file per split, such as {names}")
    found = [path for path in (folder / f"{split}.{extension}" for extension in _FORMATS) if path.is_file()]
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if len(found) + bool(shards) > 1:
        clash = quoted([path.name for path in [*found, *shards]])
        raise DataError(f"data.path: {str(folder)!r} has {clash} for the split {split}; keep one of them")
    if not found and not shards:
        present = quoted(sorted(entry.name for entry in folder.iterdir())[:20])
        splits = ", ".join(["train", *task.eval_splits])
        raise DataError(
            f"data.path: {str(folder)!r} has no file for the split {split}; looked for {names} and {split}-*.parquet, found {present}. "
            f"{task.name} needs the splits {splits}"
        )
    return found or shards


def _read(paths: list[Path]) -> _Table:
    for path in paths:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
        if not size:
            raise DataError(f"{path}: the file is empty")
    extension = paths[0].suffix
    return _read_delimited(paths[0], extension) if extension in (".csv", ".tsv") else _read_arrow(paths, extension)


def _read_delimited(path: Path, extension: str) -> _Table:
    """Reads csv and tsv by the standard library.

    The readers behind `datasets` guess: a text "NA" becomes null, rows that are one field longer than the header shift every column, and
    missing fields are filled in. Here every value is text, and a row that does not fit is an error with its line. A csv is quoted as RFC
    4180 says; a tsv is not quoted, as everywhere in this field.
    """
    rows: list[list[str]] = []
    numbers: list[int] = []
    csv.field_size_limit(2**31 - 1)
    start = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True) if extension == ".csv" else csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(reader, [])
            start = reader.line_num + 1
            if len(set(header)) != len(header):
                twice = sorted({name for name in header if header.count(name) > 1})
                raise DataError(f"{path}: the header names {quoted(twice)} more than once; rename one")
            for fields in reader:
                if fields and len(fields) != len(header):
                    rule = "a text with a comma or a quote stands in quotes" if extension == ".csv" else "a tsv is not quoted"
                    raise DataError(
                        f"{path}, line {start}: {len(fields)} fields, expected {len(header)} ({', '.join(header)}); mend the line ({rule})"
                    )
                if fields:
                    rows.append(fields)
                    numbers.append(start)
                start = reader.line_num + 1
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: cannot be read as {extension[1:]}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    columns = {name: [fields[i] for fields in rows] for i, name in enumerate(header)}
    return _Table(str(path), columns, len(rows), lambda i: f"{path}, line {numbers[i]}")


def _read_arrow(paths: list[Path], extension: str) -> _Table:
    """Reads json, jsonl and parquet by `datasets`: in memory, with a private cache that is removed again."""
    import datasets

    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/{paths[0].name} and {len(paths) - 1} more"
    read = datasets.Dataset.from_parquet if extension == ".parquet" else datasets.Dataset.from_json
    with tempfile.TemporaryDirectory(prefix="dora-data-") as cache, _quiet():
        try:
            dataset = read([str(path) for path in paths], cache_dir=cache, keep_in_memory=True)
        # Which error a broken file gives depends on the reader behind `datasets`; the user's remedy does not.
        except Exception as error:
            cause = error.__cause__ or error
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
            raise DataError(f"{name}: cannot be read as {extension[1:]}: {reason}") from error
        columns = dict(dataset[:])
        for column, feature in dataset.features.items():
            # A class column stores ids; its names are what the task's labels are compared with. -1 means "no label".
            if isinstance(feature, datasets.ClassLabel):
                columns[column] = [None if i is None or i < 0 else feature.int2str(i) for i in columns[column]]
        rows = len(dataset)
    return _Table(name, columns, rows, lambda i: f"{name}, row {i + 1}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and log lines of `datasets`: what it has to say of a broken file is in our message."""
    import datasets
    from datasets.utils import logging

    bars, level = datasets.are_progress_bars_disabled(), logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
