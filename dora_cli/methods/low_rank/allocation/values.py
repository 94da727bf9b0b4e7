"""Scores on the device that the components are on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dora_cli.methods.low_rank.allocation.scores import EPS, SCORES, Observed, Score
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton


def values(score: Score, seen: Sequence[Observed]) -> torch.Tensor:
    """What `score` makes of one step, one group after the other: ``(components,)``."""
    return torch.cat([_value(score, group) for group in seen])


def _value(score: Score, seen: Observed) -> torch.Tensor:
    """By Triton where that is two kernels instead of some fifteen."""
    if score is SCORES["published"] and seen.A.dtype == torch.float32 and takes_triton(seen.A.device):
        from dora_cli.methods.low_rank.allocation import triton_scores

        if seen.layout.width <= triton_scores.MAX_RANK:
            return triton_scores.published(seen.A, seen.B_t, seen.c, seen.layout, EPS)
    return score.of(seen)
