"""What a task of the user's own data finds in the training split: columns, classes, and the scale of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_cli.data.sources.columns import Columns
from dora_cli.data.sources.fields import Fields, HubSource, Labels
from dora_cli.data.sources.files import read_table
from dora_cli.data.sources.values import as_text, is_missing, number_of
from dora_cli.errors import DataError
from dora_cli.files import at_home
from dora_cli.wording import plural

if TYPE_CHECKING:
    from pathlib import Path

    from dora_cli.data.sources.tables import Table
    from dora_cli.recipe import Recipe

OWN_TEXT = ("text", "sentence", "sentence1")
OWN_SECOND = ("text2", "sentence2")
OWN_LABEL = "label"
"""What columns of the user's own data are called, the first name first."""

MOST_CLASSES = 1000
"""More different labels than a head is made for: numbers, or the wrong column."""


def find_columns(task: str, recipe: Recipe) -> tuple[dict[str, str], Table]:
    """The columns of the training split, by our names, and the split itself.

    A second text is read where the recipe or the file names one.

    Raises:
        DataError: there is no such file or column.
    """
    data = recipe.data
    place: Path | HubSource
    if data.source == "hub":
        assert data.name is not None, "a problem of the recipe"
        place = HubSource(data.name, data.config)
    else:
        assert data.path is not None, "data.source files needs it"
        place = at_home(data.path)
    fields = Fields(task, (OWN_TEXT, OWN_SECOND), Labels(None), ("train",), ())
    table = read_table(fields, place, "train", data.separator)
    keys = Columns(fields, recipe.data.columns)
    found = {}
    for ours in (OWN_TEXT, OWN_SECOND, (OWN_LABEL,)):
        named = next((name for name in ours if name in (recipe.data.columns or {})), None)
        if ours == OWN_SECOND and named is None and keys.present(table, ours) is None:
            continue
        found[named or ours[0]] = keys.column(table, ours)
    return found, table


def find_labels(table: Table, values: Sequence[Any]) -> tuple[str, ...]:
    """The different labels in the order of numbers, where all are numbers, else in that of their letters.

    Raises:
        DataError: there are not two, or too many.
    """
    names = {as_text(value) for value in values if not is_missing(value)}
    numbers = {name: number_of(name) for name in names}
    if len(names) < 2:
        what = f"all have the label {next(iter(names))!r}" if names else "none has a label"
        raise DataError(
            f"{table.name}: of {plural(table.rows, 'row')} {what}; a classification needs two classes: name the column "
            "of the labels with data.columns, or all classes in data.labels"
        )
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{table.name}: {len(names):,} different labels, more than {MOST_CLASSES:,}; for numbers set task: "
            "regression, else name the column of the labels with data.columns"
        )
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(names, key=lambda name: (numbers[name], name)))
    return tuple(sorted(names))


def find_scale(table: Table, values: Sequence[Any]) -> tuple[float, float]:
    """Mean and standard deviation of the labels that are numbers; the latter 1 where all are the same.

    What is no number is an error of the reading, with its line.

    Raises:
        DataError: there is no number.
    """
    numbers = [number for value in values if (number := number_of(value)) is not None]
    if not numbers:
        raise DataError(
            f"{table.name}: of {plural(table.rows, 'label')} none is a plain decimal number, which a regression needs; "
            "for classes set task: classification, else name the column of the numbers with data.columns"
        )
    return float(np.mean(numbers)), float(np.std(numbers)) or 1.0
