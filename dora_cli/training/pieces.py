"""Tensors a piece at a time, where working on all at once would need a copy of a whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

PIECE = 2**24
"""Entries that are worked on at once: all of an adapter, a part of a whole model."""


def pieces(tensors: Sequence[torch.Tensor]) -> Iterator[slice]:
    """Parts of `tensors` in order, each of so many as hold `PIECE` entries, and at least one."""
    first = entries = 0
    for place, tensor in enumerate(tensors):
        if place > first and entries + tensor.numel() > PIECE:
            yield slice(first, place)
            first, entries = place, 0
        entries += tensor.numel()
    yield slice(first, len(tensors))
