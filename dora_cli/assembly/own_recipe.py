"""A first recipe for data of the user's own: what its columns are taken for, and numbers fit for its size."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dora_cli.assembly.first_recipe import (
    DEFAULT_MODEL,
    FirstRecipe,
    default_file,
    known_method,
    own_values,
    said_of_values,
)
from dora_cli.assembly.resolve import resolve
from dora_cli.data.sources.files import forget_table, has_split, read_table
from dora_cli.data.sources.guess import Guess, guess_columns
from dora_cli.data.sources.separators import SEPARATORS, likely_separator
from dora_cli.data.sources.tables import Table
from dora_cli.data.sources.values import as_text, is_missing
from dora_cli.errors import DataError, OptionError
from dora_cli.files import at_home
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods import METHODS, about, presets_of
from dora_cli.recipe.writing.annotate import annotated
from dora_cli.tasks import Task, get_task
from dora_cli.wording import plural

_LOOKED_AT = 5_000
"""Rows whose tokens are counted."""
_STEPS = 3_000
"""Optimiser steps that a run of defaults is worth, where the data are few enough for several epochs."""
_LISTED = 100
"""Classes that a recipe lists; of more, the training split is asked at every run."""


@dataclass(frozen=True)
class _Lengths:
    """Tokens of an example: the longest, and what 99 of 100 stay below; whether they are counted or estimated."""

    longest: int
    most: int
    counted: bool


def own_recipe(
    task_name: str,
    data: Path,
    model: str | None = None,
    method: str | None = None,
    *,
    texts: Sequence[str] = (),
    label: str | None = None,
    file: str | None = None,
) -> FirstRecipe:
    """Drafts a recipe for `data`; asks no network.

    Args:
        task_name: a task of the user's own data.
        data: one file to train on, or a folder with one for each split.
        model, method, file: as for `first_recipe`.
        texts: the file's columns of the one or two texts; empty to guess.
        label: the file's column of the label; None to guess.

    Raises:
        OptionError: the columns cannot be guessed, are not there, or the task takes no such data.
        DataError: the data cannot be read.
        RecipeError, ModelError: as `first_recipe`.
    """
    task = get_task(task_name)
    if task.fields.labels is None or not task.fields.labels.own:
        raise OptionError(f"--data is for tasks of your own data, classification and regression, not for {task.name}")
    method = known_method(method)
    folder = at_home(data)
    separator, table = _read(task, folder)
    try:
        numbers = task.labels is None
        guess = guess_columns(table, numbers=numbers, texts=texts, label=label)
        wanted, said = _draft(task, folder, table, guess, separator, numbers=numbers)
        name = model or DEFAULT_MODEL
        kind = task.head.kind_of(name)
        lengths = _lengths(name, table, guess)
        wanted["data"] |= {"path": str(data), "max_length": _max_length(lengths)}
        wanted |= {"task": task.name, "model": {"name": name}}
        section, train = own_values(method)
        wanted["method"] = {**section, **_interval(method, wanted["train"], table.rows)}
        wanted["train"] |= train
        said.append(_on_lengths(lengths, wanted["data"]["max_length"]))
        recipe = Recipe.model_validate(wanted)
        settled, _ = resolve(recipe)
        if len(settled.data.labels or ()) <= _LISTED:
            data_section = recipe.data.model_copy(update={"labels": settled.data.labels})
            recipe = recipe.model_copy(update={"data": data_section})
    finally:
        forget_table()
    text = annotated(recipe, _heading(recipe, file or default_file(task_name), said))
    return FirstRecipe(text, name if kind is None else None, tuple(said))


def _read(task: Task, folder: Path) -> tuple[str | None, Table]:
    """The training file, and the key of what separates its fields where its name says otherwise."""
    separator = None
    path = folder if folder.is_file() else next((folder / f"train.{end}" for end in ("csv", "tsv")), folder)
    if path.is_file() and path.suffix in (".csv", ".tsv"):
        sign = likely_separator(path)
        separator = next((name for name, other in SEPARATORS.items() if other == sign), None)
    try:
        return separator, read_table(task.fields, folder, "train", separator)
    except DataError as error:  # there is no recipe yet whose key it could be
        raise DataError(str(error).replace("data.path:", "--data:", 1)) from error


def _draft(
    task: Task, folder: Path, table: Table, guess: Guess, separator: str | None, *, numbers: bool
) -> tuple[dict[str, Any], list[str]]:
    """The sections ``data`` and ``train``, and what is said of them."""
    names = ("text", "text2")
    columns = {**dict(zip(names, guess.texts, strict=False)), "label": guess.label}
    data: dict[str, Any] = {"source": "files", "columns": columns}
    said = [
        f"{plural(table.rows, 'row')} in {table.name}: the text is {' and '.join(map(repr, guess.texts))}, the label "
        f"{guess.label!r}"
        + (f"; not used: {', '.join(map(repr, guess.others))}" if guess.others else "")
        + "; if that is wrong: --text NAME, --label NAME, or data.columns"
    ]
    if separator is not None:
        data["separator"] = separator
        said.append(f"{table.name}: its fields are separated by {SEPARATORS[separator]!r} (data.separator)")
    values = table.columns[guess.label]
    gaps = sum(any(is_missing(table.columns[name][row]) for name in (*guess.texts, guess.label))
               for row in range(table.rows))  # fmt: skip
    if gaps:
        data["invalid"] = "skip"
        said.append(f"{plural(gaps, 'row')} without a text or a label will be left out (data.invalid)")
    if not numbers:
        counts = Counter(as_text(value) for value in values if not is_missing(value))
        said.append(_on_classes(counts))
    if has_split(folder, task.eval_splits[0]):
        said.append(f"evaluated on the file of the split {task.eval_splits[0]} in {folder}")
    else:
        data["validation"] = share = _share(table.rows)
        said.append(f"there is no file to evaluate on, so {share:.0%} of the rows are held out (data.validation)")
    batch = 8 if table.rows < 500 else 16 if table.rows < 10_000 else 32
    steps = max(round(table.rows * (1 - data.get("validation", 0))) // batch, 1)
    epochs = min(max(-(-_STEPS // steps), 1 if steps > _STEPS else 3), 40)
    return {"data": data, "train": {"epochs": epochs, "batch_size": batch}}, said


def _on_classes(counts: Counter[str]) -> str:
    total = sum(counts.values())
    shown = ", ".join(f"{name!r} {count:,}" for name, count in counts.most_common(8))
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    line = f"{len(counts):,} {'class' if len(counts) == 1 else 'classes'}: {shown}{more}"
    if counts and (share := counts.most_common(1)[0][1] / total) > 0.7:
        line += f"; the commonest alone is right in {share:.0%}, so see macro_f1 too (eval.metric)"
    if single := [name for name, count in counts.items() if count == 1]:
        line += f"; of {', '.join(map(repr, single[:5]))} there is one example, which cannot be evaluated"
    return line


def _share(rows: int) -> float:
    """What of the training file is held out: enough to tell models apart, and no more."""
    return 0.2 if rows < 1_000 else 0.1 if rows < 50_000 else 0.05 if rows < 500_000 else 0.01


def _interval(method: str, train: dict[str, int], rows: int) -> dict[str, int]:
    """An interval between events that leaves a short run at least five of them, for methods that go by one."""
    field = None if presets_of(method) else METHODS[method].model_fields.get("prune_interval")
    steps = train["epochs"] * max(rows // train["batch_size"], 1)
    fit = max(steps * 35 // 100 // 5, 1)
    return {"prune_interval": fit} if field is not None and fit < field.default else {}


def _lengths(model: str, table: Table, guess: Guess) -> _Lengths:
    """Counted by the model's tokenizer where it is at hand, else estimated from the letters."""
    step = -(-table.rows // _LOOKED_AT)
    columns = [
        [value if isinstance(value, str) else "" for value in table.columns[name][::step]] for name in guess.texts
    ]
    from dora_cli.models import ModelUnreachableError

    try:
        base = get_task("regression").head.outline(model, revision=None, trust_remote_code=False, ask_hub=False)
    except ModelUnreachableError:
        letters = [sum(map(len, row)) for row in zip(*columns, strict=True)]
        counts = np.array([2 * len(columns) + count // 3 for count in letters])
        return _Lengths(int(counts.max()), int(np.percentile(counts, 99)), False)
    counts = np.array(
        [len(ids) for ids in base.tokenizer(*columns, truncation=False, verbose=False)["input_ids"]], dtype=np.int64
    )
    limit = int(min(base.tokenizer.model_max_length, 512))
    return _Lengths(int(counts.max()), min(int(np.percentile(counts, 99)), limit), True)


def _max_length(lengths: _Lengths) -> int:
    """A multiple of 8 that takes the longest where that costs little, else 99 of 100."""
    wanted = lengths.longest if lengths.longest <= 1.25 * lengths.most else lengths.most
    return min(max(-(-wanted // 8) * 8, 16), 512)


def _on_lengths(lengths: _Lengths, max_length: int) -> str:
    how = "counted by the model's tokenizer" if lengths.counted else "estimated, since no tokenizer is at hand"
    return (
        f"99 of 100 examples have at most {lengths.most} tokens, the longest {lengths.longest} ({how}): "
        f"data.max_length {max_length}"
    )


def _heading(recipe: Recipe, file: str, said: Sequence[str]) -> list[str]:
    model = recipe.model.name if recipe.model.name.isprintable() else repr(recipe.model.name)
    file = shlex.quote(file)
    return [
        f"{about(recipe.method.name).title} on your own data ({recipe.task}) with {model}",
        "",
        f"    dora data {file}               # what the model will see",
        f"    dora train {file} --dry-run    # the schedule in steps and the parameter budget; trains nothing",
        f"    dora train {file}",
        "",
        *(
            part
            for line in said
            for part in textwrap.wrap(line if line.isprintable() else repr(line), 116, subsequent_indent="  ")
        ),
        said_of_values(recipe.method.name),
        "Every key is here; one that you remove takes its default.",
    ]
