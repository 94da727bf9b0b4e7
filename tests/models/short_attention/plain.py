"""What the kernels of short texts compute, in plain tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dora_cli.methods.low_rank.arithmetic.dropout import HASH_BITS, cut, hashed_keep, scale
from dora_cli.models.short_attention.operators import Given


class PlainAttention:
    """`operators.Kernels` on any device; `calls` are those of `forward`."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def forward(self, given: Given) -> torch.Tensor:
        self.calls.append(given.drawn.call)
        weights, dropped = _weights(given)
        return (dropped(weights) @ given.value.to(weights.dtype)).transpose(1, 2).contiguous().to(given.query.dtype)

    def backward(self, gradient: torch.Tensor, given: Given, into: Sequence[torch.Tensor]) -> None:
        weights, dropped = _weights(given)
        query, key, value = (part.to(weights.dtype) for part in given[:3])
        gradient = gradient.transpose(1, 2).to(weights.dtype)
        of_weights = dropped(gradient @ value.transpose(-1, -2))
        mean = (weights * of_weights).sum(-1, keepdim=True)
        of_scores = weights * (of_weights - mean) * given.scaling
        found = of_scores @ key, of_scores.transpose(-1, -2) @ query, dropped(weights).transpose(-1, -2) @ gradient
        for place, part in zip(into, found, strict=True):
            place.copy_(part.transpose(1, 2))


def _weights(given: Given) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Those of all texts and heads, at least fp32, and what drops such."""
    drawn = given.drawn
    texts, heads, length, _ = given.query.shape
    query, key = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in given[:2])
    scores = query @ key.transpose(-1, -2) * given.scaling
    if given.mask is not None:
        scores = scores.masked_fill(~given.mask, -torch.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0)
    if not (threshold := cut(drawn.probability, HASH_BITS)):
        return weights, lambda given: given
    keep = (
        hashed_keep(texts * heads * length, length, drawn.seed.cpu(), drawn.call, threshold)
        .view_as(weights)
        .to(query.device)
    )
    return weights, lambda given: torch.where(keep, given * scale(threshold, HASH_BITS), 0.0)
