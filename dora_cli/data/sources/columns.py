"""Which of a file's columns is which of a task's."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from dora_cli.data.sources.fields import Fields, Names
from dora_cli.data.sources.values import quoted
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from dora_cli.data.sources.tables import Table

LABEL: Names = ("label",)
_NUMBERS = {"", "id", "idx", "index"}
"""Columns that count rows: never what a text or a label is looked for in."""
_PLAIN = re.compile(r"(?!(?:null|true|false)\Z)[A-Za-z_][\w-]*(?: [\w-]+)*", re.IGNORECASE)


class Columns:
    """Which of a file's columns is which of ours.

    Attributes:
        texts: our names of each text column.

    Raises:
        DataError: a key of the user's ``data.columns`` is none of ours, or two are the same.
    """

    def __init__(self, fields: Fields, columns: Mapping[str, str] | None) -> None:
        """Takes what the file has to give, and the user's ``data.columns``."""
        self.texts = fields.texts
        self._task = fields.task
        self._all = [*self.texts, *([] if fields.labels is None else [LABEL])]
        self._mapped = dict(columns or {})
        known = [name for names in self._all for name in names]
        unknown = [key for key in self._mapped if key not in known]
        if unknown:
            raise DataError(f"data.columns: {quoted(unknown)} is no column of {fields.task}; columns: {quoted(known)}")
        for names in self.texts:
            twice = [name for name in names if name in self._mapped]
            if len(twice) > 1:
                raise DataError(f"data.columns: {quoted(twice)} name the same column of {fields.task}; keep one")

    def has(self, names: Collection[str], wanted: Sequence[Names]) -> bool:
        """Whether a file with the columns `names` has all of ours that are `wanted`."""
        return all(self._found(names, ours) is not None for ours in wanted)

    def present(self, table: Table, ours: Names) -> str | None:
        """The file's name of one of our columns, or None if it has no such column."""
        return self._found(table.columns, ours)

    def _found(self, names: Collection[str], ours: Names) -> str | None:
        key = self._key(ours)
        candidates = ours if key is None else (self._mapped[key],)
        # One of the E2E challenge's own files writes its column in capitals.
        capitals = candidates if key is not None else (*candidates, *(name.upper() for name in candidates))
        return next((name for name in capitals if name in names), None)

    def column(self, table: Table, ours: Names) -> str:
        """The file's name of one of our columns; raises a DataError if it has no such column."""
        found = self.present(table, ours)
        if found is not None:
            return found
        if table.fault is not None:
            raise DataError(table.fault)
        key = self._key(ours)
        has = f"it has {quoted(list(table.columns))}. {self._remedy(table, ours)}"
        if key is not None:
            raise DataError(
                f"{table.name}: no column {self._mapped[key]!r}, which data.columns gives for {key!r}; {has}"
            )
        raise DataError(f"{table.name}: no column {' or '.join(map(repr, ours))}; {has}")

    def check_apart(self, table: Table, read: Sequence[Names]) -> None:
        """Raises a DataError if two of our columns, of those that are `read`, would be one of the file's.

        A label that is read as the text is learned to perfection, and nothing is learned.
        """
        taken: dict[str, Names] = {}
        for ours in read:
            column = self.present(table, ours)
            if column is None:
                continue
            if column in taken:
                two = f"{self._name(taken[column])!r} and {self._name(ours)!r} of {self._task}"
                raise DataError(
                    f"data.columns: {two} would both be read from the column {column!r} of {table.name}; it has "
                    f"{quoted(list(table.columns))}. Give each of them a column of its own"
                )
            taken[column] = ours

    def _remedy(self, table: Table, ours: Names) -> str:
        """What to type for one of our columns that the file does not have."""
        taken = [self.present(table, names) for names in self._all if names != ours]
        free = [name for name in table.columns if name not in taken]
        likely = [name for name in free if name.lower() not in _NUMBERS] or free
        if not likely:
            return f"Add a column {ours[0]!r} to the file"
        mapped = {**self._mapped, self._name(ours): likely[0]}
        words = ", ".join(f"{_written(key)}: {_written(name)}" for key, name in mapped.items())
        return f"Say which of them it is, such as --set {shlex.quote(f'data.columns={{{words}}}')}"

    def _name(self, ours: Names) -> str:
        return self._key(ours) or ours[0]

    def _key(self, ours: Names) -> str | None:
        return next((name for name in ours if name in self._mapped), None)


def _written(name: str) -> str:
    """A name as a mapping in YAML takes it for text."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)
