"""What a model with a head gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch


def logits_in(outputs: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model's output that a task reads, by name: ``logits``, or ``start_logits`` and ``end_logits``
    where the head marks a span.
    """
    return {name: value for name, value in vars(outputs).items() if name.endswith("logits") and value is not None}


_CACHES = ("past_key_values", "cache", "cache_params")
"""What writing goes on from, as versions of transformers call it; of no use to whoever reads a whole output."""


def tensors_in(outputs: Any) -> Iterator[torch.Tensor]:
    """All tensors of a model's output, those of its tuples (hidden states, attentions) too, in a fixed order; without
    its cache.
    """
    for value in _named(outputs).values():
        yield from _tensors(value)


def each_tensor(outputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """An output like `outputs`, made of what `change` gives of each of `tensors_in`."""
    found = {name: _changed(value, change) for name, value in _named(outputs).items()}
    return type(outputs)(**found) if isinstance(outputs, Mapping) else SimpleNamespace(**found)


def _named(outputs: Any) -> dict[str, Any]:
    values = outputs if isinstance(outputs, Mapping) else vars(outputs)
    return {name: value for name, value in values.items() if name not in _CACHES}


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return tuple(_changed(part, change) for part in value)
    return value if isinstance(value, str | int | float) else None  # others may hold tensors that are not changed
