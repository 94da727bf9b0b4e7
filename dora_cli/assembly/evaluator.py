"""The evaluator of a recipe: how it is made from the examples of its splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from dora_cli.assembly.data import HELD_OUT
from dora_cli.data import Encoded, Examples, PairLayout, encode_sources, group_references
from dora_cli.evaluation.base import Progress, silent
from dora_cli.evaluation.decoding import check_positions
from dora_cli.evaluation.measuring import Evaluator, Sources, Writing
from dora_cli.evaluation.settings import Decoding
from dora_cli.recipe import DecodeSection, Recipe
from dora_cli.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator


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
    encode: Callable[[Examples], Encoded] | None = None,
) -> Evaluator:
    """An evaluator over `examples`, which holds the task's `evaluated_splits`.

    Args:
        model: what will be evaluated; asked now whether it can write as much as the recipe lets it.
        layout: how texts stand in its input.
        split: the one split to evaluate, if not those of the recipe.
        encode: makes tokens of examples, in place of the task.

    Raises:
        DataError: a split without labels or references, or outputs that would be longer than the model allows.
    """
    for name, part in examples.items():
        task.check_scorable(name, part, recipe.data.source)
    measured = task.eval_splits if split is None else (split,)
    writing = _writing(recipe, measured[0], examples, model, tokenizer, layout, split) if task.decodes else None
    encode = encode or (lambda part: task.encode(part, tokenizer, recipe.data.max_length, layout))
    return Evaluator(
        task,
        {name: encode(examples[name]) for name in measured},
        writing,
        batch_size=recipe.eval.batch_size,
        accelerator=accelerator,
        captured=recipe.train.cuda_graph != "off",
        progress=progress,
    )


def _writing(
    recipe: Recipe,
    dev: str,
    examples: Mapping[str, Examples],
    model: nn.Module,
    tokenizer: Any,
    layout: PairLayout | None,
    split: str | None,
) -> Writing:
    """What is written: a little about the split `dev` after every epoch, and all of one split at the end."""
    assert recipe.decode is not None
    assert layout is not None
    full, few, settings = _written_at_the_end(recipe.decode, split), recipe.decode.epoch_samples, decoding(recipe)

    def sources(name: str, examples: Examples) -> Sources:
        groups = group_references(examples)
        return Sources(name, groups, encode_sources(groups.sources, tokenizer, recipe.data.max_length, layout))

    greedy = sources(dev, examples[dev].sample_sources(few, seed=0)) if few else None
    at_the_end = sources(full, examples[full]) if full else None
    for written in (greedy, at_the_end):
        if written is not None:
            check_positions(model, written.encoded, layout, settings)
    return Writing(tokenizer, layout, settings, greedy, at_the_end)


def _written_at_the_end(section: DecodeSection, split: str | None) -> str | None:
    """The split that finished weights write about: the one that is evaluated, if it is one alone; but what is held out
    is not asked for by its name, so ``decode.split: none`` holds for it too.
    """
    if split is None or (split == HELD_OUT and section.split == "none"):
        return section.at_the_end
    return split


def decoding(recipe: Recipe) -> Decoding:
    """How a resolved recipe decodes finished weights."""
    assert recipe.decode is not None
    return Decoding(**recipe.decode.model_dump(exclude={"split", "epoch_samples"}))
