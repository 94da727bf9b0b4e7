"""Turning the values of a file into texts and labels, with errors that say where."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.errors import DataError
from dora_cli.wording import plural

if TYPE_CHECKING:
    from dora_cli.tasks import ClassificationTask

Where = Callable[[int], str]
"""Says where the value at a position came from, such as ``"train.csv, line 7"``."""


def quoted(names: Sequence[str]) -> str:
    """Names for a message: ``'a', 'b'``."""
    return ", ".join(repr(name) for name in names) if names else "none"


def label_ids(task: ClassificationTask, written: Sequence[str] | None) -> Mapping[str, int] | None:
    """The label id of every value that a file may hold, or None for a regression.

    Args:
        task: the task.
        written: the labels as the file writes them, in the task's order. None: the task's own names, or its label ids as digits.

    Raises:
        DataError: `written` does not fit the task.
    """
    if task.label_names is None:
        if written is not None:
            raise DataError(f"data.labels: {quoted(written)} were given, but the label of {task.name} is a number; remove data.labels")
        return None
    if written is None:
        return {key: index for index, name in enumerate(task.label_names) for key in (name, str(index))}
    if len(written) != task.num_labels or len(set(written)) != len(written):
        raise DataError(
            f"data.labels: {quoted(written)} hold {plural(len(set(written)), 'different value')}, but {task.name} has "
            f"{task.num_labels} labels; give the values that stand in the file for {', '.join(task.label_names)}, in this order"
        )
    return {value: index for index, value in enumerate(written)}


def as_text(value: Any) -> str:
    """A label as its file writes it: JSON's truth values in lower case, everything else by `str`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_labels(
    task: ClassificationTask, values: Sequence[Any], ids: Mapping[str, int] | None, where: Where, remedy: str = "mend the file"
) -> list[int] | list[float]:
    """Labels of a column.

    Args:
        task: the task.
        values: one value per example; strings or numbers.
        ids: from `label_ids`.
        where: says where a value came from.
        remedy: what the user can do about an unknown label.

    Raises:
        DataError: a label is missing or unknown, or no finite number for a regression; names the place and what is allowed.
    """
    if ids is not None:
        try:
            return [ids[as_text(value)] for value in values]
        except KeyError:
            position = next(i for i, value in enumerate(values) if as_text(value) not in ids)
            raise DataError(f"{where(position)}: label {_shown(values[position])} is not one of {quoted(list(ids))}; {remedy}") from None
    numbers: list[float] = []
    for position, value in enumerate(values):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where(position)}: label {_shown(value)} is not a finite number, as {task.name} needs; mend the file")
        numbers.append(number)
    return numbers


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
        what = "is null" if value is None else "is empty" if isinstance(value, str) else f"is {value!r} ({type(value).__name__}), not text"
        raise DataError(f"{where(position)}: column {column!r} {what}; fill it in or remove the row")
    return list(values)


def not_utf8(path: Path) -> DataError:
    """The error for a text file that is not UTF-8, with its first such line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                return DataError(f"{path}, line {number}: not UTF-8; convert the file to UTF-8")
    raise AssertionError(f"{path} changed while it was read")


def unlabelled(values: Sequence[Any]) -> bool:
    """True if a label column says nothing: only nulls, empty values, or the -1 that the hub's test splits hold."""
    return all(value is None or as_text(value) in ("", "-1", "-1.0") for value in values)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
