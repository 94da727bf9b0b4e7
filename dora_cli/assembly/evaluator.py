"""The evaluator of a recipe: which splits it needs, and how it is made from their examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from dora_cli.data import Examples, PairLayout, encode, encode_pairs, encode_sources, group_references
from dora_cli.errors import DataError
from dora_cli.evaluation.base import Evaluator, Progress, silent
from dora_cli.evaluation.classification import ClassificationEvaluator
from dora_cli.evaluation.decoding import Decoding, check_positions
from dora_cli.evaluation.generation import GenerationEvaluator, Sources
from dora_cli.recipe import Recipe
from dora_cli.tasks import ClassificationTask, GenerationTask, Task

if TYPE_CHECKING:
    from accelerate import Accelerator


def evaluated_splits(recipe: Recipe, task: Task, split: str | None = None) -> tuple[str, ...]:
    """The splits that an evaluation of `recipe` (resolved) reads; `split` takes the place of all of them."""
    if split is not None:
        return (split,)
    if isinstance(task, ClassificationTask):
        return task.eval_splits
    assert recipe.decode is not None and recipe.decode.split is not None
    return tuple(dict.fromkeys((*task.eval_splits, recipe.decode.split)))


def make_evaluator(
    recipe: Recipe,
    task: Task,
    examples: Mapping[str, Examples],
    *,
    model: nn.Module,
    tokenizer: Any,
    layout: PairLayout | None,
    accelerator: Accelerator,
    progress: Progress = silent,
    split: str | None = None,
) -> Evaluator:
    """An evaluator over `examples`, which holds `evaluated_splits`.

    Args:
        model: what will be evaluated; asked now whether it can write as much as the recipe lets it.
        layout: how a generator's texts are laid out; None for a classifier.
        split: the one split to evaluate, if not those of the recipe.

    Raises:
        DataError: a split without labels or references, or outputs that would be longer than the model allows.
    """
    data, settings = recipe.data, recipe.eval
    if isinstance(task, ClassificationTask):
        for name, part in examples.items():
            _refuse_unlabelled(task, name, part.labels is not None, "labels", data.source)
        encoded = {name: encode(part, tokenizer, data.max_length) for name, part in examples.items()}
        return ClassificationEvaluator(
            encoded, task, batch_size=settings.batch_size, accelerator=accelerator, progress=progress
        )
    assert recipe.decode is not None and recipe.decode.split is not None and layout is not None
    losses = task.eval_splits if split is None else (split,)
    full = split or recipe.decode.split
    for name in {*losses, full}:
        _refuse_unlabelled(task, name, len(examples[name].texts) == 2, "references", data.source)
    few, settings_of_outputs = recipe.decode.epoch_samples, decoding(recipe)

    def sources(name: str, examples: Examples) -> Sources:
        groups = group_references(examples)
        return Sources(name, groups, encode_sources(groups.sources, tokenizer, data.max_length, layout))

    greedy = sources(losses[0], examples[losses[0]].sample_sources(few, seed=0)) if few else None
    at_the_end = sources(full, examples[full])
    for written in (greedy, at_the_end):
        if written is not None:
            check_positions(model, written.encoded, layout, settings_of_outputs)
    return GenerationEvaluator(
        task,
        losses={name: encode_pairs(examples[name], tokenizer, data.max_length, layout) for name in losses},
        greedy=greedy,
        full=at_the_end,
        settings=settings_of_outputs,
        tokenizer=tokenizer,
        layout=layout,
        batch_size=settings.batch_size,
        accelerator=accelerator,
        progress=progress,
    )


def decoding(recipe: Recipe) -> Decoding:
    """How a resolved recipe decodes finished weights."""
    assert recipe.decode is not None
    return Decoding(**recipe.decode.model_dump(exclude={"split", "epoch_samples"}))


def _refuse_unlabelled(
    task: GenerationTask | ClassificationTask, split: str, labelled: bool, what: str, source: str
) -> None:
    if not labelled:
        hint = "; set decode.split to one that has them" if isinstance(task, GenerationTask) else ""
        raise DataError(
            f"split {split}: {task.name} has no {what} for it in data.source {source}, so it cannot be scored{hint}"
        )
