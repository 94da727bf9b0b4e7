"""Turning the values of a file into texts and labels, with errors that say where."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.encodings import HEAD, Misfit, find_misfit, wide_misfit
from dora_cli.errors import DataError
from dora_cli.files import WHOLE, lines, open_regular
from dora_cli.wording import plural

if TYPE_CHECKING:
    from dora_cli.data.sources.fields import Fields, Labels

Where = Callable[[int], str]
"""Says where the value at a position came from, such as ``"train.csv, line 7"``."""

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
"""What a text must be to be a number. `float` takes more, all of it misread or mistyped in a column of scores: ``1_5``,
``-7e3``, digits of other scripts, ``infinity``."""
MOST = 1e30
"""The largest number that a label may be: what is computed with in fp32, squared even after scaling, stays finite."""
_MARK = -1
"""What stands for "no label" in GLUE's test splits on the hub."""
_LONGEST = 60
"""Characters of a value in a message."""


def quoted(names: Sequence[str]) -> str:
    """Names for a message: ``'a', 'b'``."""
    return ", ".join(repr(name) for name in names) if names else "none"


def label_ids(fields: Fields, written: Sequence[str] | None) -> Mapping[str, int] | None:
    """The label id of every value that a file may hold, or None for a regression.

    Args:
        fields: what the file has to give; with labels.
        written: the labels as the file writes them, in the task's order. None: the task's own names, or its label ids
            as digits.

    Raises:
        DataError: `written` does not fit the task.
    """
    names = _labels(fields).names
    if names is None:
        if written is not None:
            raise DataError(
                f"data.labels: {quoted(written)} were given, but the label of {fields.task} is a number; "
                "remove data.labels"
            )
        return None
    if written is None:
        return {key: index for index, name in enumerate(names) for key in (name, str(index))}
    if len(written) != len(names) or len(set(written)) != len(written):
        raise DataError(
            f"data.labels: {quoted(written)} hold {plural(len(set(written)), 'different value')}, but "
            f"{fields.task} has {len(names)} labels; give the values that stand in the file for {', '.join(names)}, "
            "in this order"
        )
    return {value: index for index, value in enumerate(written)}


def _labels(fields: Fields) -> Labels:
    assert fields.labels is not None, f"{fields.task} has references, not labels"
    return fields.labels


def as_text(value: Any) -> str:
    """A label as its file writes it: JSON's truth values in lower case, everything else by `str`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def number_of(value: Any) -> float | None:
    """The number that a label is; None where it is no plain decimal number, or too large for one."""
    number = _number(value)
    return None if number is None or abs(number) > MOST else number


def is_missing(value: Any) -> bool:
    """Whether a value of a file says nothing: null, or white space alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def parse_labels(
    fields: Fields,
    values: Sequence[Any],
    ids: Mapping[str, int] | None,
    where: Where,
    remedy: str = "fix the file",
) -> list[int] | list[float]:
    """Labels of a column.

    Args:
        fields: what the file has to give; with labels.
        values: one value per example; strings or numbers.
        ids: from `label_ids`.
        where: says where a value came from.
        remedy: what the user can do about an unknown label.

    Raises:
        DataError: a label is missing or unknown, or, for a regression, no plain decimal number in the task's span;
            names the place and what is allowed.
    """
    labels: list[Any] = []
    for position, value in enumerate(values):
        label = _number(value) if ids is None else ids.get(as_text(value))
        if label is None or (ids is None and not _within(fields, label)):
            raise DataError(f"{where(position)}: label {describe(value)} {_fault(fields, value, ids, remedy)}")
        labels.append(label)
    return labels


def _number(value: Any) -> float | None:
    """The number that a value is, infinity if it is too large for one; None if it is none."""
    if isinstance(value, str):
        text = value.strip(" ")
        return float(text) if _DECIMAL.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except OverflowError:
        return math.inf
    return None if math.isnan(number) else number


def _within(fields: Fields, number: float) -> bool:
    least, greatest = _labels(fields).span or (-MOST, MOST)
    return least <= number <= greatest


def _fault(fields: Fields, value: Any, ids: Mapping[str, int] | None, remedy: str) -> str:
    """What is wrong with a label and what to do about it, as it follows the label itself."""
    number = _number(value)
    mark = "is how GLUE marks a row without a label"
    if ids is not None:
        return f"is not one of {quoted(list(ids))}{f' ({_MARK} {mark})' if number == _MARK else ''}; {remedy}"
    if number == _MARK and _labels(fields).span:
        return f"{mark}; give the row its number or remove it"
    least, greatest = _labels(fields).span or (-MOST, MOST)
    if number is None:
        example = greatest / 2 if _labels(fields).span else 2.5
        return f"is no plain decimal number such as {example:g}, which {fields.task} needs; fix the file"
    return f"is outside {least:g} to {greatest:g}, the range of {fields.task}; scale the column to it or fix the row"


def check_texts(values: Sequence[Any], column: str, where: Where, *, filled: bool = False) -> list[str]:
    """The texts of a column.

    Args:
        values: one value per example.
        column: name of the column, for messages.
        where: says where a value came from.
        filled: whether a text must hold more than white space.

    Raises:
        DataError: a text is null, not a string, or empty where it must not be; names the place and the column.
    """
    for position, value in enumerate(values):
        if isinstance(value, str) and (value.strip() or not filled):
            continue
        if value is None or isinstance(value, str):
            what = "is empty" if isinstance(value, str) else "is null"
            raise DataError(f"{where(position)}: column {column!r} {what}; fill it in or remove the row")
        raise DataError(
            f"{where(position)}: column {column!r} is {describe(value)}, not text; write texts into it, or name a "
            "column of texts with data.columns"
        )
    return list(values)


def not_utf8(path: Path) -> DataError:
    """The error for a text file that is not UTF-8: its first such line, and the encoding it fits."""
    try:
        misfit = find_misfit(str(path), lines(path, limit=WHOLE))
    except OSError as error:
        return DataError(f"{path}: cannot be read: {error.strerror or error}; convert the file to UTF-8")
    assert misfit is not None, f"{path} changed while it was read"
    return _misfit_error(path, misfit)


def check_not_wide(path: Path) -> None:
    """Raises a DataError if a text file is in UTF-16 or UTF-32, whose bytes may be UTF-8 all the same; OSError if it
    cannot be read.
    """
    with open_regular(path) as file:
        misfit = wide_misfit(str(path), file.read(HEAD))
    if misfit is not None:
        raise _misfit_error(path, misfit)


def _misfit_error(path: Path, misfit: Misfit) -> DataError:
    return DataError(
        f"{path}: {misfit.reason}" if misfit.line is None else f"{path}, line {misfit.line}: {misfit.reason}"
    )


def unlabelled(values: Sequence[Any]) -> bool:
    """True if a label column says nothing: only nulls, empty values, or the -1 that the hub's test splits hold."""
    return all(value is None or as_text(value) in ("", str(_MARK), str(float(_MARK))) for value in values)


def kind_of(value: Any) -> str:
    """What a value that is no null is, in words."""
    kinds = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def describe(value: Any) -> str:
    """A value for a message, as it is matched: in quotes, and what else it is if it is no text."""
    if value is None:
        return "null"
    text = as_text(value)
    short = repr(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")
    return short if isinstance(value, str) else f"{short} ({kind_of(value)})"
