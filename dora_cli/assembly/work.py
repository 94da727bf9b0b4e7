"""How much there is to compute in a batch of a recipe: how many threads of the CPU that is worth, and whether it is
worth being cut into parts.
"""

from __future__ import annotations

from math import prod
from typing import overload

from torch import nn

from dora_cli.data.cuts import MOST_PARTS, UNCUT, Cuts
from dora_cli.errors import ProjectionError
from dora_cli.machine.threads import Threads, worth_threads
from dora_cli.models import find_projections
from dora_cli.recipe import Recipe

PASS_WORK = {"cpu": 2**27, "cuda": 2**35}
"""What a further pass over a block costs whatever is in it, in multiplications of its matrices: of one thread of the
CPU, and of a CUDA device that steps are captured for.

A pass over MiniLM took 35 ms and 0.66 ms a token on one core, 52 and 0.39 on two, where a token is 1.8 million
multiplications of a block: 53 and 135 tokens, that is 0.9e8 and 1.2e8 a thread. On an H100 captured steps in bf16 took
0.36 ms a block at MiniLM's width and 0.46 at RoBERTa-base's, with 1,400 tokens of SST-2 a batch: the difference is what
5.3 million multiplications a token take, the rest, 0.33 ms, that of 2.4e10 (docs/results/whole-runs.md). So MiniLM's
batches are cut where that saves 76 tokens a thread, and on such a device hardly ever."""

FEW_PIECES = 4
"""Pieces that a batch is cut into at the most where work is captured by shape."""


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


def block_product(model: nn.Module) -> int:
    """Multiplications of all matrix products in a block of `model` for a token, their mean over blocks; 0 where it has
    none.
    """
    try:
        projections = find_projections(model, ("attention", "ffn"))
    except ProjectionError:
        return 0
    blocks = {(projection.stack, projection.block) for projection in projections}
    return sum(prod(projection.shape) for projection in projections) // len(blocks)


@overload
def decide_cuts(recipe: Recipe, model: nn.Module, device: str, *, captured: bool, threads: int) -> Cuts: ...
@overload
def decide_cuts(
    recipe: Recipe, model: nn.Module | None, device: str, *, captured: bool, threads: int | None
) -> Cuts | None: ...
def decide_cuts(
    recipe: Recipe, model: nn.Module | None, device: str, *, captured: bool, threads: int | None
) -> Cuts | None:
    """How the batches of a new run are cut into parts of similar length; None where it takes a model and there is none.

    Args:
        model: its shapes alone are looked at.
        device: its type, ``cpu`` or ``cuda``.
        captured: whether steps are captured in CUDA graphs.
        threads: of the CPU.
    """
    most = recipe.train.batch_parts
    pieces = FEW_PIECES if device == "cuda" else Cuts.pieces
    dealt = device == "cpu"  # elsewhere a step is captured for each number of rows
    if isinstance(most, int):
        return Cuts(most, pieces=pieces, dealt=dealt and most > 1)
    if model is None or threads is None:
        return None
    product = block_product(model)
    if not product or (device == "cuda" and not captured):  # then the host is what a step waits for
        return UNCUT
    work = PASS_WORK[device] * (threads if device == "cpu" else 1)
    return Cuts(MOST_PARTS, -(-work // product), pieces, dealt)
