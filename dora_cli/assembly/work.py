"""How much there is to compute in a batch of a recipe, and how many threads of the CPU that is worth."""

from __future__ import annotations

from math import prod
from typing import overload

from torch import nn

from dora_cli.errors import ProjectionError
from dora_cli.machine.threads import Threads, worth_threads
from dora_cli.models import find_projections
from dora_cli.recipe import Recipe


def largest_product(model: nn.Module, tokens: int) -> int:
    """Multiplications of the largest matrix product in a block of `model` for so many tokens."""
    try:
        sizes = [prod(projection.shape) for projection in find_projections(model, ("attention", "ffn"))]
    except ProjectionError:  # a model whose head alone is trained need not have blocks
        sizes = [parameter.numel() for parameter in model.parameters() if parameter.ndim == 2]
    return tokens * max(sizes, default=0)


@overload
def decide_threads(recipe: Recipe, model: nn.Module, most: int) -> Threads: ...
@overload
def decide_threads(recipe: Recipe, model: nn.Module | None, most: int) -> Threads | None: ...
def decide_threads(recipe: Recipe, model: nn.Module | None, most: int) -> Threads | None:
    """The number of a new run; None where it takes a model and there is none.

    Args:
        model: its shapes alone are looked at.
        most: `most_threads`, asked before anything in this process has changed the number.
    """
    if isinstance(recipe.train.threads, int):
        return Threads(recipe.train.threads, "train.threads")
    if model is None:
        return None
    worth = worth_threads(largest_product(model, recipe.train.batch_size * recipe.data.max_length))
    return Threads(
        min(worth, most),
        f"auto: the largest matrix product of a batch is worth {worth:,}, and this machine gives {most}",
    )
