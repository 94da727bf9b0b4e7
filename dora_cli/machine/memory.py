"""What to do when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from dora_cli.errors import OutOfMemoryError
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods import about

# PyTorch's CPU allocator has no error class of its own, nor have the libraries that allocate on the GPU beside PyTorch.
_WORDS = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turns a failed allocation within into an OutOfMemoryError with this advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(advice) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def memory_advice(recipe: Recipe, batch: str = "train") -> AbstractContextManager[None]:
    """`enough_memory` that says which key of the recipe to lower.

    Args:
        batch: whose batch size is to blame: ``train``, ``eval`` or ``decode``; ``load`` where there is no batch yet.
    """
    return enough_memory(_advice(recipe, batch))


def evaluation_advice(batch_size: int) -> str:
    """Where an evaluation with ``eval.batch_size`` ran out of memory."""
    return f"out of memory in an evaluation with eval.batch_size {batch_size}; lower it: it changes speed, not training"


def decoding_advice(batch_size: int, beams: int) -> str:
    """Where decoding ran out of memory."""
    return (
        f"out of memory in decoding with decode.batch_size {batch_size} and decode.beams {beams}; lower the batch "
        "size: it changes speed, not training"
    )


def _advice(recipe: Recipe, batch: str) -> str:
    in_place = about(recipe.method.name).in_place
    if batch == "load":
        model = recipe.model
        half = "" if in_place else f"set model.dtype=bfloat16 (now {model.dtype}) or "
        return f"out of memory while loading {model.name}; {half}choose a smaller model"
    if batch == "train":
        size, accumulation = recipe.train.batch_size, recipe.train.gradient_accumulation
        if size > 1:
            smaller = -(-size // 2)
            same = " (the same global batch, in a run from the start)" if size % 2 == 0 else ""
            fix = f"set train.batch_size={smaller} and train.gradient_accumulation={2 * accumulation}{same}"
        else:
            rank = " or method.rank" if hasattr(recipe.method, "rank") else ""
            fix = f"lower data.max_length (now {recipe.data.max_length}){rank}"
        half = (
            "train.precision=bf16, or a method of few parameters such as lora" if in_place else "model.dtype=bfloat16"
        )
        return f"out of memory in training with train.batch_size {size}; {fix}, or use {half}"
    if batch == "eval":
        return evaluation_advice(recipe.eval.batch_size)
    assert recipe.decode is not None
    return decoding_advice(recipe.decode.batch_size, recipe.decode.beams)
