"""Attention of all beams of a source at once: their queries are rows of one product with keys that it has once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

SHARING = frozenset({"bart", "gpt2", "gpt_neox", "llama", "mbart", "mistral", "opt", "pegasus", "qwen2", "qwen3"})
"""Model types whose attention is nothing but scaled products, a mask and a softmax, and is called through transformers'
`AttentionInterface`. T5's has a bias of its own beside the mask.
"""

_NAME = "dora_beams_as_queries"


def shares(model: nn.Module) -> bool:
    """Whether `model`, which `suitable` knows, can attend to a `SharedCache`.

    Eager attention stays what it is: it was asked for, and rounds in a way of its own.
    """
    config: Any = model.config
    return config.model_type in SHARING and config._attn_implementation == "sdpa"


def group_of(model: nn.Module, heads: int) -> int:
    """Query heads of each of `heads` heads of keys and values."""
    config: Any = model.config
    if config.is_encoder_decoder:
        return 1  # none of `SHARING` has fewer of them, and encoder and decoder may differ in theirs
    all_heads = int(config.num_attention_heads)
    assert all_heads % heads == 0
    return all_heads // heads


def beams_as_queries(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """One token of every row attends to what its source has.

    No key or value is copied. The queries of a head of keys and values are sorted by beam, then by query head.

    Args:
        query: ``(sources * beams, heads, 1, width)``.
        key: ``(sources, heads of keys and values, columns, width)``, and so is `value`.
        attention_mask: ``(sources, 1, beams * group, columns)``, or 1 in place of these queries; added to the logits.
            `group` is the number of query heads of a head of keys and values.
        others: what else models tell an attention; nothing of it may change the result.

    Returns:
        ``(sources * beams, 1, heads, width)``, and None for the weights, which are not kept.
    """
    assert dropout == 0.0
    # a window, a cap on the logits or a bias of its own would be passed over
    assert all(others.get(name) is None for name in ("sliding_window", "softcap", "position_bias", "s_aux"))
    (sources, heads, _, _), (rows, all_heads, tokens, _) = key.shape, query.shape
    assert tokens == 1
    beams, group = rows // sources, all_heads // heads
    queries = query.view(sources, beams, heads, group, -1).transpose(1, 2).flatten(2, 3)
    found = scaled_dot_product_attention(queries, key, value, attn_mask=attention_mask, scale=scaling)
    return found.unflatten(2, (beams, group)).transpose(1, 2).reshape(rows, 1, all_heads, -1), None


AttentionInterface.register(_NAME, beams_as_queries)


@contextmanager
def attending(model: nn.Module) -> Iterator[None]:
    """Within it `model` attends by `beams_as_queries`; it is left as it was."""
    owner: Any = model
    before = owner.config._attn_implementation
    owner.set_attn_implementation(_NAME)
    try:
        assert owner.config._attn_implementation == _NAME
        yield
    finally:
        owner.set_attn_implementation(before)
