"""What the model of a recipe will see of its data: counts, labels, lengths in tokens, oddities, a few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from dora_cli.assembly.clients import client_parts, counts_by_label
from dora_cli.assembly.data import HELD_OUT, load_data
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.notes import notes_before_training, notes_on_length
from dora_cli.assembly.padding import batches_of_epoch
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Examples, PairLayout
from dora_cli.data.padding import Lengths, count_tokens, pad_multiple
from dora_cli.evaluation.passes import by_length
from dora_cli.machine.devices import resolve_device
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task

_SHOWN = 3
"""Examples that are shown as tokens."""
_PERCENTILES = (50, 90, 95, 99)


def look_at_data(recipe: Recipe) -> dict[str, Any]:
    """All of it as plain values; needs the model's tokenizer, and none of its weights.

    Returns:
        ``task``, ``model``, ``source``, ``max_length``; ``notes``, what a run would say of its data; ``splits``, of
            each its ``examples``, ``labels`` (counts by name, or ``mean``, ``deviation``, ``least`` and ``greatest``;
            None where it has none), ``baseline`` (metrics of saying the same of all), ``tokens`` (percentiles by name,
            ``longest``), ``real`` (what part of the tokens that the model computes of it is real, in the recipe's
            whole batches of one process, the training split's in the first epoch; None where that is not computed so),
            how many examples are ``cut``, ``empty``, ``duplicates`` of an earlier one and ``contradictions`` (the same
            texts with another label), and how many are ``in_train`` too; ``clients``, of a federated recipe, of each
            its number from 1 as ``client``, and ``examples`` and ``labels`` of its part of the training split; and
            ``shown``, a few of the training split with their ``texts``, ``label`` and ``tokens``.

    Raises:
        DoraError: as a run of `recipe` would, before it loads weights.
    """
    recipe, task = resolve(recipe)
    base = task.head.outline(
        recipe.model.name, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code
    )
    layout = task.layout(base)
    data = load_data(recipe, task)
    parts = data.by_split
    notes = [
        *notes_before_training(recipe, task, data.training, data.evaluated, read=data.read),
        *notes_on_length(recipe, base.tokenizer.model_max_length),
    ]
    learned = set(_questions(task, data.training))
    splits = {}
    for name, examples in parts.items():
        counts = task.token_counts(examples, base.tokenizer, layout)
        splits[name] = _split(recipe, task, examples, counts)
        splits[name]["real"] = _real(recipe, task, name, counts, base.tokenizer, layout)
        if name != "train":
            splits[name]["in_train"] = sum(question in learned for question in _questions(task, examples))
    return {
        "task": task.name,
        "model": recipe.model.name,
        "source": recipe.data.source,
        "max_length": recipe.data.max_length,
        "notes": notes,
        "splits": splits,
        "clients": None if recipe.federated is None else _clients(recipe, task, data.training),
        "shown": _shown(recipe, task, data.training, base.tokenizer, layout),
    }


def _clients(recipe: Recipe, task: Task, training: Examples) -> list[dict[str, Any]]:
    found = []
    for number, rows in enumerate(client_parts(recipe, training), start=1):
        part = training.only(rows)
        found.append({"client": number, "examples": len(part), "labels": _labels(task, part.labels)})
    return found


def _questions(task: Task, examples: Examples) -> list[tuple[str, ...]]:
    """What is asked: all texts, or the source alone of what has references."""
    return list(zip(*(examples.texts if task.fields.labels is not None else examples.texts[:1]), strict=True))


def _real(
    recipe: Recipe, task: Task, split: str, counts: Lengths, tokenizer: Any, layout: PairLayout | None
) -> float | None:
    """What part of the computed tokens is real."""
    measured = task.eval_splits if recipe.eval.held_out is None else (HELD_OUT,)
    if (layout is not None and layout.encoder_decoder) or recipe.federated is not None:
        return None  # there are two inputs, of whose lengths only the greater is known; or batches of clients
    lengths = np.minimum(counts, recipe.data.max_length)
    count = partial(
        count_tokens,
        [lengths if layout is None else lengths - 1],  # the last token of a target is never read
        max_length=min(recipe.data.max_length, tokenizer.model_max_length),
        multiple=pad_multiple(resolve_device(recipe.train.device).type),
    )
    if split == "train":
        length = RunLength.of(recipe, len(counts), 1)
        return count(batches_of_epoch(recipe, lengths, length, 1)).share
    if split not in measured:
        return None
    return count(by_length(lengths, recipe.eval.batch_size)).share


def _split(recipe: Recipe, task: Task, examples: Examples, counts: Lengths) -> dict[str, Any]:
    rows = list(zip(*examples.texts, strict=True))
    distinct = set(rows)
    labelled = distinct if examples.labels is None else set(zip(*examples.texts, examples.labels, strict=True))
    return {
        "examples": len(examples),
        "labels": _labels(task, examples.labels),
        "baseline": dict(task.baseline(examples)),
        "tokens": {
            **{f"p{share}": round(float(np.percentile(counts, share))) for share in _PERCENTILES},
            "longest": int(counts.max()),
        },
        "cut": int((counts > recipe.data.max_length).sum()),
        "empty": sum(any(not text.strip() for text in texts) for texts in rows),
        "duplicates": len(rows) - len(distinct),
        "contradictions": len(labelled) - len(distinct),
    }


def _labels(task: Task, labels: Sequence[float] | None) -> Mapping[str, Any] | None:
    if labels is None:
        return None
    if task.labels is None:
        numbers = np.array(labels, dtype=np.float64)
        found = {"mean": numbers.mean(), "deviation": numbers.std(), "least": numbers.min(), "greatest": numbers.max()}
        return {name: float(value) for name, value in found.items()}
    return counts_by_label(task.labels, labels)


def _shown(
    recipe: Recipe, task: Task, training: Examples, tokenizer: Any, layout: PairLayout | None
) -> list[dict[str, Any]]:
    labels = None if training.labels is None else training.labels[:_SHOWN]
    first = Examples(tuple(column[:_SHOWN] for column in training.texts), labels)
    encoded = task.encode(first, tokenizer, recipe.data.max_length, layout)
    shown = []
    for row in range(len(encoded)):
        batch = encoded.collate([row], 1)
        ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
        label: Any = None if labels is None else labels[row]
        if label is not None and task.labels is not None:
            label = task.labels[int(label)]
        one: dict[str, Any] = {"texts": [column[row] for column in first.texts], "label": label}
        one["tokens"] = tokenizer.convert_ids_to_tokens(ids)
        if "decoder_input_ids" in batch:
            one["decoder_tokens"] = tokenizer.convert_ids_to_tokens(batch["decoder_input_ids"][0].tolist())
        shown.append(one)
    return shown
