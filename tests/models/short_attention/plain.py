"""What the kernels of short texts compute, in plain tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dora_cli.methods.low_rank.dropout import HASH_BITS, cut, hashed_keep, scale
from dora_cli.models.short_attention.operators import Drawn


class PlainAttention:
    """`operators.Kernels` on any device; `calls` are those of `forward`."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        drawn: Drawn,
        scaling: float,
    ) -> torch.Tensor:
        self.calls.append(drawn.call)
        weights, dropped = _weights(query, key, mask, drawn, scaling)
        return (dropped(weights) @ value.to(weights.dtype)).transpose(1, 2).contiguous().to(query.dtype)

    def backward(
        self,
        gradient: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        drawn: Drawn,
        scaling: float,
        into: Sequence[torch.Tensor],
    ) -> None:
        weights, dropped = _weights(query, key, mask, drawn, scaling)
        query, key, value = (part.to(weights.dtype) for part in (query, key, value))
        gradient = gradient.transpose(1, 2).to(weights.dtype)
        of_weights = dropped(gradient @ value.transpose(-1, -2))
        mean = (weights * of_weights).sum(-1, keepdim=True)
        of_scores = weights * (of_weights - mean) * scaling
        found = of_scores @ key, of_scores.transpose(-1, -2) @ query, dropped(weights).transpose(-1, -2) @ gradient
        for place, part in zip(into, found, strict=True):
            place.copy_(part.transpose(1, 2))


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    drawn: Drawn,
    scaling: float,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Those of all texts and heads, at least fp32, and what drops such."""
    texts, heads, length, _ = query.shape
    query, key = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (query, key))
    scores = query @ key.transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0)
    if not (threshold := cut(drawn.probability, HASH_BITS)):
        return weights, lambda given: given
    keep = (
        hashed_keep(texts * heads * length, length, drawn.seed.cpu(), drawn.call, threshold)
        .view_as(weights)
        .to(query.device)
    )
    return weights, lambda given: torch.where(keep, given * scale(threshold, HASH_BITS), 0.0)
