"""What a task of the user's own data finds in the training split: columns, classes, and the scale of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_cli.data.sources.columns import Columns
from dora_cli.data.sources.fields import Fields, HubSource, Labels
from dora_cli.data.sources.files import read_table
from dora_cli.data.sources.values import as_text, describe, is_missing, number_of
from dora_cli.errors import DataError
from dora_cli.files import at_home
from dora_cli.runs.records.confusion import LONGEST_LABEL, MOST_CLASSES
from dora_cli.tasks.reading import read_split
from dora_cli.wording import plural

if TYPE_CHECKING:
    from pathlib import Path

    from dora_cli.data.sources.tables import Table
    from dora_cli.recipe import Recipe

OWN_TEXT = ("text", "sentence", "sentence1")
OWN_SECOND = ("text2", "sentence2")
OWN_LABEL = "label"
"""What columns of the user's own data are called, the first name first."""


def find_columns(task: str, recipe: Recipe) -> tuple[dict[str, str], Table]:
    """The columns of the training split, by our names, and the split itself.

    Where the recipe names a column of texts, those that it names are all that are read; else the file may have a
    second one.

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
    fields = Fields(task, (OWN_TEXT, OWN_SECOND), Labels(None, own=True), ("train",), ())
    table = read_table(fields, place, "train", data.separator)
    keys = Columns(fields, recipe.data.columns)
    given = set(recipe.data.columns or {})
    one_text = bool(given & set(OWN_TEXT)) and not given & set(OWN_SECOND)
    found = {}
    for ours in (OWN_TEXT, OWN_SECOND, (OWN_LABEL,)):
        named = next((name for name in ours if name in given), None)
        if ours == OWN_SECOND and (one_text or (named is None and keys.present(table, ours) is None)):
            continue
        found[named or ours[0]] = keys.column(table, ours)
    return found, table


def find_labels(table: Table, values: Sequence[Any]) -> tuple[str, ...]:
    """The different labels in the order of numbers, where all are numbers, else in that of their letters.

    Raises:
        DataError: there are not two, or too many; or one is a list or an object.
    """
    for row, value in enumerate(values):
        if isinstance(value, list | dict):
            raise DataError(
                f"{table.where(row)}: label {describe(value)}, but an example has one label, a text or a number; name "
                "another column with data.columns, or write one label a row"
            )
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
    if (longest := max(map(len, names))) > LONGEST_LABEL:
        raise DataError(
            f"{table.name}: a label of {longest:,} characters, more than {LONGEST_LABEL:,}; name the column of the "
            "labels with data.columns"
        )
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(names, key=lambda name: (numbers[name], name)))
    return tuple(sorted(names))


def listed_problems(labels: Sequence[str]) -> list[str]:
    """What keeps the classes that ``data.labels`` lists from being a head's, a line each."""
    found = []
    if len(labels) > MOST_CLASSES:
        found.append(
            f"data.labels: {len(labels):,} labels, more than {MOST_CLASSES:,}; for numbers set task: regression, else "
            "list fewer"
        )
    if (longest := max(map(len, labels), default=0)) > LONGEST_LABEL:
        found.append(f"data.labels: a label of {longest:,} characters, more than {LONGEST_LABEL:,}; shorten it")
    return found


def check_numbers(table: Table, values: Sequence[Any]) -> None:
    """Raises a DataError where no label is a number; a single one that is none is an error of the reading, with its
    line.
    """
    if all(number_of(value) is None for value in values):
        raise DataError(
            f"{table.name}: of {plural(table.rows, 'label')} none is a plain decimal number, which a regression needs; "
            "for classes set task: classification, else name the column of the numbers with data.columns"
        )


def find_scale(recipe: Recipe, fields: Fields) -> tuple[float, float]:
    """Mean and standard deviation of the numbers that are learned, without what ``data.validation`` or
    ``eval.held_out`` hold out, and what is left out or cut off; the latter 1 where all are the same.

    Raises:
        DataError: the examples cannot be read.
    """
    share = recipe.eval.held_out
    learned = read_split(
        recipe, fields, "train", training=True, tied=share is not None and recipe.eval.held_out_by != "rows"
    )
    if share is not None:
        learned, _ = learned.parted(share)
    numbers = learned.labels
    assert numbers is not None, "the training split is complete"
    return float(np.mean(numbers)), float(np.std(numbers)) or 1.0
