"""What a finished run says of examples that nobody has labelled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dora_cli.assembly.data import encode_split
from dora_cli.assembly.evaluator import decoding
from dora_cli.assembly.restore import Restored, restore
from dora_cli.data import Examples, Input, encode_sources, group_references, read_input
from dora_cli.data.notes import text_notes
from dora_cli.data.sources.forms import FORMS
from dora_cli.errors import OptionError, RecipeError
from dora_cli.evaluation.decoding import decode
from dora_cli.evaluation.measuring import keep_rows
from dora_cli.library.submission import Destination, Part
from dora_cli.machine.memory import memory_advice
from dora_cli.machine.processes import is_main
from dora_cli.machine.threads import own_threads
from dora_cli.recipe import Recipe, check_listed
from dora_cli.tasks import Answers, Task
from dora_cli.training.listener import Listener, SilentListener

Texts = tuple[Sequence[str], ...]
"""Texts to predict for: one list, or two of pairs."""
Check = Callable[[Recipe, Task, Sequence[str]], None]
"""Told the resolved recipe, its task and the splits that will be read (none for a file), before anything is loaded."""


def predict_saved(
    checkpoint: str | Path,
    *,
    split: str | None = None,
    file: Path | None = None,
    form: str | None = None,
    texts: Texts | None = None,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Predicts with the model of a run; a generator decodes by its recipe's settings.

    Args:
        checkpoint: run folder, or one checkpoint of it.
        split: of the run's data; ``"test"`` stands for all test splits. If neither this nor `file` is given: the test
            splits, a generator's ``decode.split``.
        file: examples of the user's own, in a table with the task's columns, or one a line in plain text.
        form: what `file` holds: ``"csv"``, ``"tsv"``, ``"json"``, ``"jsonl"`` or ``"text"``; None: what its name says,
            or its content.
        texts: examples of the user's own: a list of texts, or two of pairs.
        overrides: ``key=value`` changes, as for `evaluate_saved`.

    Returns:
        A record for each example, in order: its texts under their columns' names, ``prediction`` (name of the class, or
            a number) and,
        for classes, ``probabilities`` by name; ``label`` where the split has one; ``split`` where there are several. Of
        a generator a
        record for each different source: the source under its column's name, ``output``, and ``references`` where
            known.

    Raises:
        DoraError: what a user can fix.
    """
    given = _Given(split, file, texts, form)
    parts = _guarded(checkpoint, given, overrides, listener, lambda recipe, task, splits: None)
    return [record for part in parts for record in part.records]


@dataclass(frozen=True)
class Written:
    """A file of predictions and how many there are in it."""

    path: Path
    predictions: int


def write_predictions(
    checkpoint: str | Path,
    output: str,
    *,
    split: str | None = None,
    file: Path | None = None,
    called: str | None = None,
    form: str | None = None,
    texts: Texts | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    as_json: bool = False,
    listener: Listener | None = None,
) -> list[Written]:
    """`predict_saved` into files; see `Destination` for what `output` may be. Other processes than the main one write
    nothing.

    Files that are there are replaced only with `overwrite`. On stdout a table follows a table, unless `as_json` asks
    for JSON lines. Notes speak of `file` as what it is `called`.

    Raises:
        OutputError: `output` cannot be written or does not fit the task; said before anything is loaded, where that can
            be known.
    """
    listener = listener or SilentListener()
    destinations: list[Destination] = []

    def check(recipe: Recipe, task: Task, splits: Sequence[str]) -> None:
        destinations.append(Destination.plan(output, task, splits, overwrite=overwrite, as_json=as_json, source=file))
        if destinations[0].official and splits and recipe.data.max_eval_samples is not None:
            raise RecipeError(
                f"data.max_eval_samples is {recipe.data.max_eval_samples} in the recipe of this run, but the "
                "benchmark wants a prediction for every example; add --set data.max_eval_samples=null, or write JSON "
                "lines (.jsonl)"
            )

    parts = _guarded(checkpoint, _Given(split, file, texts, form, called), overrides, listener, check)
    if not is_main():
        return []
    return [Written(path, count) for path, count in destinations[0].write(parts, listener.note)]


@dataclass(frozen=True)
class _Given:
    """What the user wants predictions of: a file, texts, or a split of the run's data."""

    split: str | None
    file: Path | None
    texts: Texts | None
    form: str | None = None
    called: str | None = None

    @property
    def from_run(self) -> bool:
        return self.file is None and self.texts is None

    def check(self) -> None:
        names = [f"--split {self.split}"] if self.split is not None else []
        names += [f"--input {self.file}"] if self.file is not None else []
        names += ["--text"] if self.texts is not None else []
        if len(names) > 1:
            raise RecipeError(
                f"{' and '.join(names)} are {'all' if len(names) > 2 else 'both'} given; name one of them"
            )
        if self.form is None:
            return
        if self.form not in FORMS:
            raise OptionError(f"--format {self.form}: is none of {', '.join(FORMS)}; name one, or leave it out")
        if self.file is None:
            raise OptionError(f"--format {self.form} says what --input holds, which is missing; add --input FILE")

    def examples(self, task: Task) -> Examples:
        """The texts as `task` reads them; raises RecipeError where it reads another number."""
        assert self.texts is not None
        if len(self.texts) != task.reads:
            pair = task.reads == 2
            raise RecipeError(
                f"{task.name} reads {'pairs of texts' if pair else 'one text'}; "
                + ("give the second one by --text-pair" if pair else "leave --text-pair out")
            )
        counts = [len(column) for column in self.texts]
        if len(set(counts)) > 1:
            raise RecipeError(
                f"--text is given {counts[0]} times and --text-pair {counts[1]} times; give as many of each"
            )
        return Examples(tuple(list(column) for column in self.texts), None)


@own_threads()
def _guarded(
    checkpoint: str | Path,
    given: _Given,
    overrides: Sequence[str],
    listener: Listener | None,
    check: Check,
) -> list[Part]:
    listener = listener or SilentListener()
    try:
        return _predict(checkpoint, given, overrides, listener, check)
    finally:
        listener.close()


def _predict(
    checkpoint: str | Path,
    given: _Given,
    overrides: Sequence[str],
    listener: Listener,
    check: Check,
) -> list[Part]:
    split, file = given.split, given.file
    given.check()
    if file is not None:
        overrides = _from_files(file, overrides)
    own: dict[str, Examples] = {}
    read: dict[str, Input] = {}

    def splits(recipe: Recipe, task: Task) -> Sequence[str]:
        names = task.predicted_splits(recipe, split) if given.from_run else ()
        check(recipe, task, names)
        if file is not None:
            found = read_input(task.fields, file, recipe.data.columns, separator=recipe.data.separator, form=given.form)
            own[str(file)], read[str(file)] = found.examples, found
        elif given.texts is not None:
            own["--text"] = given.examples(task)
        return names

    restored = restore(checkpoint, overrides, splits, listener.note)
    parts = own or restored.examples
    several = len(parts) > 1
    for name, examples in parts.items():
        place = f"split {name}" if not own else given.called or name
        for note in text_notes(place, examples):
            listener.note(note)
    found = [_part(restored, name, examples, listener, several=several) for name, examples in parts.items()]
    return [replace(part, source=read.get(part.name)) for part in found]


def _from_files(file: Path, overrides: Sequence[str]) -> Sequence[str]:
    """`overrides` under which the recipe's data are files of the user's own, as `file` is, wherever the run's came
    from.

    ``data.columns`` and ``data.labels`` are read with such data alone.
    """
    check_listed(overrides)
    if any(override.partition("=")[0].strip() == "data.source" for override in overrides):
        return overrides
    own = ["data.source=files", "data.name=null", "data.config=null"]  # whatever set the run learned from
    return [*own, f"data.path={json.dumps(str(file.parent))}", *overrides]


def _part(restored: Restored, name: str, examples: Examples, listener: Listener, *, several: bool) -> Part:
    if restored.task.decodes:
        return Part(name, _decoded(restored, name, examples, listener), None)
    answers = _answered(restored, name, examples, listener)
    records = [{"split": name, **record} for record in answers.records] if several else answers.records
    return Part(name, records, answers.official)


def _decoded(restored: Restored, name: str, examples: Examples, listener: Listener) -> list[dict[str, Any]]:
    recipe, adapted, task = restored.recipe, restored.adapted, restored.task
    assert adapted.layout is not None
    groups = group_references(examples)
    sources = encode_sources(groups.sources, adapted.tokenizer, recipe.data.max_length, adapted.layout)
    with memory_advice(recipe, "decode"), adapted.method.folded():
        outputs = decode(
            adapted.model,
            adapted.tokenizer,
            sources,
            adapted.layout,
            decoding(recipe),
            accelerator=restored.ground.accelerator,
            captured=recipe.train.cuda_graph != "off" and not adapted.method.cannot_merge,
            progress=lambda done, total: listener.evaluating(f"{name} (decoding)", done, total),
        )
    records = {
        source: {task.text_columns[0]: source, "output": output, **({"references": references} if references else {})}
        for source, output, references in zip(groups.sources, outputs, groups.references, strict=True)
    }
    # A line of the user's own file without references is asked for as often as it stands there; a reference is no
    # question of its own.
    asked = examples.texts[0] if len(examples.texts) == 1 else groups.sources
    return [records[source] for source in asked]


def _answered(restored: Restored, name: str, examples: Examples, listener: Listener) -> Answers:
    recipe, adapted, task = restored.recipe, restored.adapted, restored.task
    encoded = encode_split(recipe, task, examples, adapted)
    # in the batches of an evaluation, not folded: the numbers are those of dora eval
    with memory_advice(recipe, "eval"):
        kept = keep_rows(
            adapted.model,
            encoded,
            task,
            batch_size=recipe.eval.batch_size,
            accelerator=restored.ground.accelerator,
            progress=lambda done, total: listener.evaluating(name, done, total),
        )
    return task.answer(kept, examples, recipe)
