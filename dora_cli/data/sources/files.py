"""Examples from a user's own files: csv, tsv, json, jsonl or parquet."""

from __future__ import annotations

import gzip
import re
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.data.examples import Examples
from dora_cli.data.sources.columns import LABEL, Columns
from dora_cli.data.sources.fields import ALSO, HubSource
from dora_cli.data.sources.forms import TEXT, Form, named_separator, recognise, widest_separator
from dora_cli.data.sources.hub import has_hub_split, read_hub_table
from dora_cli.data.sources.json_lines import check_characters, is_unsafe, json_fault, row_place
from dora_cli.data.sources.tables import CANNOT_READ, Table, check_not_empty, no_examples, read_delimited
from dora_cli.data.sources.values import (
    check_not_wide,
    check_texts,
    is_missing,
    label_ids,
    not_utf8,
    parse_labels,
    quoted,
    unlabelled,
)
from dora_cli.errors import DataError
from dora_cli.files import WHOLE, check_depth, check_regular, open_regular, text_lines
from dora_cli.wording import plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dora_cli.data.sources.fields import Fields, Names

_FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")
_PACKED = ".gz"
_ENDINGS = (*_FORMATS, *(f"{form}{_PACKED}" for form in _FORMATS if form != "parquet"))
"""What a file may end in; parquet packs itself."""


def read_files(
    fields: Fields,
    folder: Path | HubSource,
    split: str,
    columns: Mapping[str, str] | None,
    labels: Sequence[str] | None,
    *,
    validation: float | None = None,
    skip: bool = False,
    separator: str | None = None,
) -> Examples:
    """Examples of `split` from ``<split>.<format>`` in `folder`, or from parquet shards ``<split>-*.parquet``.

    Args:
        fields: what the file has to give.
        folder: holds one file per split; or the one file of the training split; or a data set of the hub.
        split: the hub's name of the split, which is the file's name too.
        columns: our column names to the file's. Ours are the task's own, or sentence, sentence1, sentence2 (generation:
            those of the official files, such as mr and ref); label. None: the file uses ours.
        labels: the labels as the file writes them, in the task's order. None: the task's names or label ids.
        validation: the share of the training file that becomes the evaluated split, which then has no file.
        skip: whether rows without a text or a label are left out, and counted in a note; else they are an error.
        separator: as for `read_delimited`.

    Raises:
        DataError: no such folder or file, an unreadable or empty file, a missing column, one that is two of ours, a
            null text, an unknown label, an empty source or reference; names the file, the row and what is allowed.
    """
    if validation is None or split not in ("train", *fields.evaluated):
        return _read_split(fields, folder, split, columns, labels, skip=skip, separator=separator)
    if len(fields.evaluated) > 1:
        raise DataError(
            f"data.validation: {fields.task} is evaluated on {', '.join(fields.evaluated)}, which one file cannot "
            "give; remove the key, and give a file for each"
        )
    (evaluated,) = fields.evaluated
    _check_no_other(fields, folder, evaluated, validation)
    whole = _read_split(fields, folder, "train", columns, labels, skip=skip, separator=separator)
    learned, held = whole.parted(validation)
    if not len(held):
        raise DataError(
            f"data.validation: {plural(len(whole), 'example')} in {_place(folder)} cannot be parted into examples to "
            "learn from and others to evaluate on; give more, or a file of their own"
        )
    part = learned if split == "train" else held
    how = "each class by its share" if whole.labels and isinstance(whole.labels[0], int) else "drawn at random"
    note = (
        f"split {split}: {len(part):,} of the {plural(len(whole), 'row')} of the training file, {how} (data.validation)"
    )
    return replace(part, notes=(*(whole.notes if split == "train" else ()), note))


def _check_no_other(fields: Fields, folder: Path | HubSource, evaluated: str, validation: float) -> None:
    """Refuses to hold out a split that is there."""
    if isinstance(folder, HubSource):
        if has_hub_split(fields, folder, evaluated):
            raise DataError(
                f"data.validation: is {validation:g}, but {folder.path} has a split {evaluated}; remove the key"
            )
    elif folder.is_dir() and (there := _files(folder, evaluated)):
        raise DataError(
            f"data.validation: is {validation:g}, but there is {there[0].name} in {folder} too; remove the key, or "
            "the file"
        )


def _place(folder: Path | HubSource) -> str:
    return folder.path if isinstance(folder, HubSource) else str(folder)


def _read_split(
    fields: Fields,
    folder: Path | HubSource,
    split: str,
    columns: Mapping[str, str] | None,
    labels: Sequence[str] | None,
    *,
    skip: bool,
    separator: str | None,
) -> Examples:
    keys = Columns(fields, columns)
    ids = None if fields.labels is None else label_ids(fields, labels)
    table = read_table(fields, folder, split, separator)
    notes: tuple[str, ...] = ()
    if skip:
        wanted = [*keys.texts, *([] if fields.labels is None else [LABEL])]
        if not fields.complete(split):  # then it may have no labels or references
            wanted = wanted[:-1]
        table, notes = _without_gaps(table, [keys.column(table, ours) for ours in wanted])
    found = _examples(fields, table, split, keys, ids)
    return replace(found, notes=notes)


_Key = tuple[Any, ...]
_remembered: list[tuple[_Key, Table]] = []
"""The table that was read last, until `forget_table`."""


def read_table(fields: Fields, folder: Path | HubSource, split: str, separator: str | None = None) -> Table:
    """The file of `split`, or the split of a data set of the hub, with at least one row; raises DataError.

    The training file is asked for several times before a run starts: for its columns and classes, for its examples, and
    for those held out of them. It is kept until `forget_table`, or until another one is read, as long as it does not
    change.
    """
    if isinstance(folder, HubSource):
        key: _Key = (folder, split)
    else:
        paths = _find(fields, folder, split)
        key = (separator, *((path, status.st_size, status.st_mtime_ns) for path in paths for status in [path.stat()]))
    if _remembered and _remembered[0][0] == key:
        return _remembered[0][1]
    table = read_hub_table(fields, folder, split) if isinstance(folder, HubSource) else _read(paths, separator)
    if not table.rows:
        raise no_examples(table.name)
    if split == "train":
        _remembered[:] = [(key, table)]
    return table


def forget_table() -> None:
    """Frees the memory of the table that `read_table` keeps: whoever has all examples needs it no more."""
    _remembered.clear()


def has_split(folder: Path, split: str) -> bool:
    """Whether `folder` holds a file of `split`."""
    return folder.is_dir() and bool(_files(folder, split))


def _without_gaps(table: Table, columns: Sequence[str]) -> tuple[Table, tuple[str, ...]]:
    """The rows that have all of `columns`, and what is said of the others."""
    gaps = [i for i in range(table.rows) if any(is_missing(table.columns[name][i]) for name in columns)]
    if not gaps:
        return table, ()
    left_out = set(gaps)
    kept = [i for i in range(table.rows) if i not in left_out]
    if not kept:
        raise DataError(f"{table.name}: no row has all of {quoted(columns)}; fill them in")
    first = "; ".join(table.where(i).removeprefix(f"{table.name}, ") for i in gaps[:3])
    note = (
        f"{table.name}: {len(gaps):,} of {plural(table.rows, 'row')} without {' or '.join(columns)} left out "
        f"({first}{', ...' if len(gaps) > 3 else ''})"
    )
    return table.take(kept), (note,)


def _examples(fields: Fields, table: Table, split: str, keys: Columns, ids: Mapping[str, int] | None) -> Examples:
    keys.check_apart(table, [*keys.texts, *([] if fields.labels is None else [LABEL])])
    if fields.labels is None:
        return _pairs(fields, split, table, keys)
    examples = _texts(table, keys)
    if not fields.complete(split):
        given = keys.present(table, LABEL)
        if given is None or unlabelled(table.columns[given]):
            return examples
    values = table.columns[keys.column(table, LABEL)]
    if fields.labels.own and unlabelled(values):
        raise DataError(
            f"{table.name}: none of {plural(table.rows, 'row')} has a label in the column "
            f"{keys.column(table, LABEL)!r}; fill them in, or name another column with data.columns"
        )
    remedy = (
        "fix the file, or name every class in data.labels (data.invalid: skip leaves out rows without a label)"
        if fields.labels.own
        else f"fix the file, or set data.labels to the values that stand for {', '.join(fields.labels.names or ())}, "
        "in this order"
    )
    return Examples(examples.texts, parse_labels(fields, values, ids, table.where, remedy))


@dataclass(frozen=True)
class Input:
    """Examples to predict from.

    Attributes:
        examples: without labels.
        form: what they are written in.
        columns: all columns of their table, a row for each example; None of plain text.
    """

    examples: Examples
    form: Form
    columns: Mapping[str, Sequence[Any]] | None


def read_file(
    fields: Fields, path: Path, columns: Mapping[str, str] | None, *, separator: str | None = None
) -> Examples:
    """The examples of `read_input`."""
    return read_input(fields, path, columns, separator=separator).examples


def read_input(
    fields: Fields,
    path: Path,
    columns: Mapping[str, str] | None,
    *,
    separator: str | None = None,
    form: str | None = None,
) -> Input:
    """Examples to predict from one file: labels are not read; a generation's references are, where there are any.

    Args:
        fields: what the file has to give.
        path: a csv, tsv, json, jsonl or parquet file with the task's columns. What a file of another name holds is
            recognised by its content; where the task reads one text it may be plain text, a text a line.
        columns: our column names to the file's, as for `read_files`.
        separator: likewise; of a table without one, that by which its header has the task's columns.
        form: one of `FORMS`, whatever name and content say.

    Raises:
        DataError: as `read_files`, or a blank line between texts.
    """
    if not path.is_file():
        raise DataError(f"{path}: " + ("is a folder; give a file" if path.is_dir() else "there is no such file"))
    keys = Columns(fields, columns)
    needed = keys.texts[:1] if fields.labels is None else keys.texts
    found = _form(path, keys, needed, separator, form)
    if found.kind == TEXT:
        if len(needed) > 1:
            raise DataError(
                f"{path}: {fields.task} reads pairs of texts, which plain text cannot hold; give a table "
                f"({', '.join(_FORMATS)}) with the columns {quoted(fields.own_names)}"
            )
        return Input(Examples((_lines(path),), None), found, None)
    with _doubted(may_be_text=len(needed) == 1 and not found.sure):
        table = _read_as(path, found)
        if not table.rows:
            raise no_examples(table.name)
        keys.check_apart(table, keys.texts)
        examples = _pairs(fields, None, table, keys) if fields.labels is None else _texts(table, keys)
    return Input(examples, found, table.columns)


def _form(path: Path, keys: Columns, needed: Sequence[Names], separator: str | None, form: str | None) -> Form:
    """What `path` holds, as the user says, by its name, or by its content."""
    kind = form or _format(path)
    if kind not in (None, "csv", "tsv") or path.suffix == _PACKED:
        return Form(str(kind), separator)
    check_not_empty(path)
    try:
        check_not_wide(path)
        if kind is None:
            return recognise(path, keys, needed, plain=len(needed) == 1)
        own = (*([separator] if separator else []), "tab" if kind == "tsv" else "comma")
        return Form(kind, named_separator(path, keys, needed, own) or separator or widest_separator(path, own[-1]))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {CANNOT_READ}") from None


@contextmanager
def _doubted(*, may_be_text: bool) -> Iterator[None]:
    """Adds to what is wrong with a table that it may be none."""
    try:
        yield
    except DataError as error:
        if not may_be_text:
            raise
        raise DataError(f"{error}; if these are no columns but plain texts, one a line: --format text") from error


def _read_as(path: Path, form: Form) -> Table:
    """Reads `path` as what `form` says, whatever its name."""
    if form.kind == _format(path):
        return _read([path], form.separator)
    with tempfile.TemporaryDirectory(prefix="dora-data-") as folder:
        named = Path(folder) / f"examples.{form.kind}"
        named.symlink_to(path.resolve())
        return _renamed(named, path, form.separator)


def _texts(table: Table, keys: Columns) -> Examples:
    columns = [keys.column(table, ours) for ours in keys.texts]
    return Examples(tuple(check_texts(table.columns[column], column, table.where) for column in columns), None)


def _lines(path: Path) -> list[str]:
    try:
        check_not_wide(path)
        lines = "".join(text_lines(path)).replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {CANNOT_READ}") from None
    texts = [line.strip() for line in lines]
    if "" in texts:
        raise DataError(f"{path}, line {texts.index('') + 1}: the line is blank; write a text there or remove the line")
    return texts


def _pairs(fields: Fields, split: str | None, table: Table, keys: Columns) -> Examples:
    source, target = keys.texts
    columns = [keys.column(table, source)]
    given = keys.present(table, target)
    if (split is not None and fields.complete(split)) or (given is not None and any(table.columns[given])):
        columns.append(keys.column(table, target))
    return Examples(
        tuple(check_texts(table.columns[column], column, table.where, filled=True) for column in columns), None
    )


def _find(fields: Fields, folder: Path, split: str) -> list[Path]:
    names = f"{split}.{{{','.join(_FORMATS)}}}"
    if folder.is_file() and split == "train" and _format(folder) is not None:
        return [folder]
    if not folder.is_dir():
        raise DataError(f"data.path: {str(folder)!r} {_no_folder(fields, folder, split)}")
    found = _files(folder, split)
    if len({path.stem.partition("-")[0] if "-" in path.stem else path.name for path in found}) > 1:
        clash = quoted([path.name for path in found])
        raise DataError(f"data.path: {str(folder)!r} has {clash} for the split {split}; keep one of them")
    if not found:
        present = quoted(sorted(entry.name for entry in folder.iterdir())[:20])
        splits = ", ".join(["train", *fields.evaluated])
        raise DataError(
            f"data.path: {str(folder)!r} has no file for the split {split}; looked for {names} and {split}-*.parquet, "
            f"found {present}. {fields.task} needs the splits {splits}{_held_out(fields, split)}"
        )
    return found


def _no_folder(fields: Fields, path: Path, split: str) -> str:
    """What is wrong with a path that is neither a folder nor a file to train on."""
    if path.exists() and split != "train":
        return (
            "is a file, not a folder; data.source files looks in a folder for one file per split, such as "
            f"{split}.{_FORMATS[0]}{_held_out(fields, split)}"
        )
    what = "does not exist"
    if path.exists():
        what = f"is a file that ends in {path.suffix}" if path.suffix else "is a file without an ending"
    forms = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
    return f"{what}; name a file in {forms} to train on, or a folder with one per split, such as train.{_FORMATS[0]}"


def _held_out(fields: Fields, split: str) -> str:
    """What else can be done about a missing split."""
    if (split,) != fields.evaluated:
        return ""
    return "; data.validation: 0.1 holds out a tenth of the training file in its place"


def _files(folder: Path, split: str) -> list[Path]:
    """The files of `split` in `folder`, those of shards last."""
    stems = (split, *ALSO.get(split, ()))
    found = [path for path in (folder / f"{stem}.{end}" for stem in stems for end in _ENDINGS) if path.is_file()]
    return [*found, *(path for stem in stems for path in sorted(folder.glob(f"{stem}-*.parquet")))]


def _format(path: Path) -> str | None:
    """Which of `_FORMATS` a file has by its name; None for another."""
    return next((end.removesuffix(_PACKED) for end in _ENDINGS if path.name.endswith(f".{end}")), None)


def _read(paths: list[Path], separator: str | None = None) -> Table:
    if paths[0].suffix == _PACKED:
        return _read_packed(paths[0], separator)
    if paths[0].suffix in (".csv", ".tsv"):
        return read_delimited(paths[0], separator)
    for path in paths:
        check_not_empty(path)
        if path.suffix in (".json", ".jsonl"):
            _check_lines(path)
    return _read_arrow(paths, paths[0].suffix)


def _read_packed(path: Path, separator: str | None) -> Table:
    """Reads what a .gz holds from a copy; messages name the .gz."""
    check_not_empty(path)
    with tempfile.TemporaryDirectory(prefix="dora-data-") as folder:
        copy = Path(folder) / path.stem
        _unpack(path, copy)
        return _renamed(copy, path, separator)


def _renamed(copy: Path, path: Path, separator: str | None) -> Table:
    """Reads `copy`, for which messages say `path`."""
    try:
        table = _read([copy], separator)
    except DataError as error:
        raise DataError(str(error).replace(str(copy), str(path))) from error
    fault = table.fault and table.fault.replace(str(copy), str(path))
    return replace(table, name=str(path), fault=fault, where=lambda row: table.where(row).replace(str(copy), str(path)))


def _unpack(path: Path, copy: Path) -> None:
    left = WHOLE
    try:
        with open_regular(path) as file, gzip.GzipFile(fileobj=file) as packed, copy.open("wb") as out:
            while part := packed.read(1 << 20):
                left -= len(part)
                if left < 0:
                    raise DataError(f"{path}: holds more than {WHOLE:,} bytes; unpack it, or give it as parquet")
                out.write(part)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be unpacked: {reason}; pack it again, or copy it again if it was copied"
        ) from None


def _check_lines(path: Path) -> None:
    """Refuses what the readers behind `datasets` would take into memory whole, break down over, or drop in silence."""
    try:
        if path.suffix == ".json":
            check_regular(path, WHOLE)
        check_not_wide(path)
        unsafe = is_unsafe(path)
        check_characters(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {_FIX['.jsonl']}") from None
    if unsafe and (fault := json_fault(path)) is not None:
        raise fault


_FIX = {
    ".json": "give a list of objects, with one kind of value in each column",
    ".jsonl": "give an object a line, with one kind of value in each column",
    ".parquet": "write the file again, or copy it again if it was copied",
}


def _read_arrow(paths: list[Path], extension: str) -> Table:
    """Reads json, jsonl and parquet by `datasets`: in memory, with a private cache that is removed again."""
    import datasets

    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/{paths[0].name} and {len(paths) - 1} more"
    read = datasets.Dataset.from_parquet if extension == ".parquet" else datasets.Dataset.from_json
    with tempfile.TemporaryDirectory(prefix="dora-data-") as cache, _quiet():
        try:
            dataset = read([str(path) for path in paths], cache_dir=cache, keep_in_memory=True)
            columns = dict(dataset[:])  # bytes that are no UTF-8 are found here, those of names with the features
            features, rows = dict(dataset.features), len(dataset)
            for column, feature in features.items():
                # lists, objects, or values of several kinds
                if not isinstance(feature, datasets.Value | datasets.ClassLabel):
                    check_depth(columns[column])
        # Which error a broken file gives depends on the reader behind `datasets`; the user's remedy does not.
        except Exception as error:
            cause = error.__cause__ or error
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
            fault = None if extension == ".parquet" else json_fault(paths[0])
            if fault is not None:
                raise fault from error
            # The reader behind `datasets` counts rows from 0, of one block of the file.
            reason = re.sub(r" in row \d+$", "", reason)
            raise DataError(f"{name}: cannot be read as {extension[1:]}: {reason}; {_FIX[extension]}") from error
        for column, feature in features.items():
            # A class column stores ids; its names are what the task's labels are compared with. -1 means "no label".
            if isinstance(feature, datasets.ClassLabel):
                columns[column] = [None if i is None or i < 0 else feature.int2str(i) for i in columns[column]]
    where = (lambda i: f"{name}, row {i + 1}") if extension == ".parquet" else row_place(paths[0], rows)
    return Table(name, columns, rows, where)


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
