"""What to do when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from dora_cli.errors import OutOfMemoryError
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods import about

# PyTorch's CPU allocator has no error class of its own, nor have the libraries that allocate on the GPU beside PyTorch.
_WORDS = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")

_STATE = 16
"""Bytes of an adapter's parameter in training: itself, its gradient and AdamW's two moments in fp32."""


@dataclass(frozen=True)
class Trained:
    """What trains beside a base model.

    Attributes:
        adapters: entries of all that trains of the adapters.
        base: entries of the base model.
        base_bytes: what these take.
    """

    adapters: int
    base: int
    base_bytes: int

    @property
    def outweighs(self) -> bool:
        """Whether training the adapters takes as much memory as the base model: then a smaller batch saves little."""
        return self.adapters * _STATE >= self.base_bytes


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


def memory_advice(recipe: Recipe, batch: str = "train", trained: Trained | None = None) -> AbstractContextManager[None]:
    """`enough_memory` that says which key of the recipe to lower.

    Args:
        batch: whose batch size is to blame: ``train``, ``eval`` or ``decode``; ``load`` or ``attach`` where there is no
            batch yet.
        trained: what trains beside the base model, where that is known.
    """
    return enough_memory(_advice(recipe, batch, trained))


def evaluation_advice(batch_size: int) -> str:
    """Where an evaluation with ``eval.batch_size`` ran out of memory."""
    return f"out of memory in an evaluation with eval.batch_size {batch_size}; lower it: it changes speed, not training"


def decoding_advice(batch_size: int, beams: int) -> str:
    """Where decoding ran out of memory."""
    return (
        f"out of memory in decoding with decode.batch_size {batch_size} and decode.beams {beams}; lower the batch "
        "size: it changes speed, not training"
    )


def _advice(recipe: Recipe, batch: str, trained: Trained | None) -> str:
    if batch in ("load", "attach"):
        return _advice_on_loading(recipe, attaching=batch == "attach")
    if batch == "train":
        return _advice_on_training(recipe, trained)
    if batch == "eval":
        return evaluation_advice(recipe.eval.batch_size)
    assert recipe.decode is not None
    return decoding_advice(recipe.decode.batch_size, recipe.decode.beams)


def _advice_on_loading(recipe: Recipe, *, attaching: bool) -> str:
    model, adapters = recipe.model, _smaller_adapters(recipe)
    fixes = [
        *([] if _in_place(recipe) else [f"set model.dtype=bfloat16 (now {model.dtype})"]),
        "choose a smaller model",
    ]
    if attaching and adapters:
        return f"out of memory with {model.name} and its adapters; {', '.join([adapters, fixes[0]])}, or {fixes[-1]}"
    return f"out of memory while loading {model.name}; {' or '.join(fixes)}"


def _advice_on_training(recipe: Recipe, trained: Trained | None) -> str:
    size, accumulation, adapters = (
        recipe.train.batch_size,
        recipe.train.gradient_accumulation,
        _smaller_adapters(recipe),
    )
    what, fixes = f"train.batch_size {size}", []
    if trained is not None and trained.outweighs and adapters:
        what += f" and adapters of {trained.adapters:,} parameters on a base model of {trained.base:,}"
        fixes.append(adapters)
    if size > 1:
        smaller = -(-size // 2)
        same = " (the same global batch, in a run from the start)" if size % 2 == 0 else ""
        fixes.append(f"set train.batch_size={smaller} and train.gradient_accumulation={2 * accumulation}{same}")
    else:
        fixes.append(f"lower data.max_length (now {recipe.data.max_length})")
        if adapters and adapters not in fixes:
            fixes.append(adapters)
    fixes.append(
        "use train.precision=bf16, or a method of few parameters such as lora"
        if _in_place(recipe)
        else "use model.dtype=bfloat16"
    )
    return f"out of memory in training with {what}; {', or '.join(fixes)}"


def _in_place(recipe: Recipe) -> bool:
    return about(recipe.method.name).in_place


def _smaller_adapters(recipe: Recipe) -> str:
    """What makes the adapters smaller; empty where no key of the method does."""
    section = recipe.method
    fewer = " or name fewer method.targets" if hasattr(section, "targets") else ""
    if getattr(section, "ranks", None):
        return f"lower method.ranks{fewer}"
    for key in ("start_rank", "rank", "bottleneck"):  # a start rank that is given says alone how much trains at once
        if isinstance(number := getattr(section, key, None), int):
            return f"lower method.{key} (now {number:,}){fewer}"
    return ""
