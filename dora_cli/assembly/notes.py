"""What is said before a run starts: settings and data that are taken as they are, but that hardly anybody means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dora_cli.data import Examples
from dora_cli.data.notes import limit_note, text_notes
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task

Note = Callable[[str], None]
"""Told what a reader should know, a line at a time."""

MOST = 0.1
"""A learning rate above it is noted. AdamW moves a weight by about the learning rate a step, whatever its gradient."""


def unheard(message: str) -> None:
    """Notes that nobody reads."""


def notes_before_training(
    recipe: Recipe, task: Task, training: Examples, evaluated: Mapping[str, Examples], *, read: int
) -> Iterator[str]:
    """Everything that a run says before its first step, each note once.

    Args:
        recipe: resolved.
        task: its task.
        training: the training examples.
        evaluated: the examples of each evaluated split.
        read: how many examples of the training split there were before any were kept from it.
    """
    yield from notes_on_settings(recipe)
    if note := limit_note("split train", "data.max_train_samples", recipe.data.max_train_samples, read, "example"):
        yield note
    yield from training.notes
    yield from text_notes("split train", training)
    yield from task.notes("split train", training, training=True)
    yield from notes_before_evaluation(recipe, task, evaluated)


def notes_before_evaluation(recipe: Recipe, task: Task, evaluated: Mapping[str, Examples]) -> Iterator[str]:
    """The same for an evaluation alone."""
    for name, examples in evaluated.items():
        place = f"split {name}"
        by_source = task.fields.by_source(name)
        count = len(set(examples.texts[0])) if by_source else len(examples)
        if note := limit_note(
            place,
            "data.max_eval_samples",
            recipe.data.max_eval_samples,
            count,
            "different source" if by_source else "example",
        ):
            yield note
        yield from examples.notes
        yield from text_notes(place, examples)
        yield from task.notes(place, examples, training=False)
    if note := note_on_scorer(recipe, task):
        yield note


def note_on_scorer(recipe: Recipe, task: Task) -> str | None:
    """What the scores at the end will lack here; None where the finished model writes nothing."""
    return None if recipe.decode is None or recipe.decode.at_the_end is None else task.lacks()


def notes_on_settings(recipe: Recipe) -> Iterator[str]:
    """Numbers that are possible and hopeless."""
    train = recipe.train
    if train.learning_rate > MOST:
        yield (
            f"train.learning_rate is {train.learning_rate:g}, and AdamW moves a weight by about as much in every "
            "step: hardly a model survives that; usual are 1e-5 to 1e-2"
        )
    elif (share := train.learning_rate * train.weight_decay) >= 1:
        yield (
            f"train.learning_rate x train.weight_decay is {share:g}, the share of every weight that AdamW takes away "
            "in a step: from 1 on weights change their sign; lower one of them"
        )


def notes_on_official_sizes(recipe: Recipe, task: Task) -> Iterator[str]:
    """Limits above what the hub has, told by the official sizes: the hub itself is not asked."""
    data = recipe.data
    wanted = [("train", "data.max_train_samples", data.max_train_samples)]
    wanted += [
        (split, "data.max_eval_samples", data.max_eval_samples)
        for split in task.eval_splits
        if not task.fields.by_source(split)  # sizes count references
    ]
    for split, key, limit in wanted:
        if note := limit_note(f"split {split}", key, limit, task.splits[split], "example"):
            yield note
