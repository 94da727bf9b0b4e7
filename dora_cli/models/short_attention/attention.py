"""Attention of encoders over short texts by two kernels, within training passes on a GPU.

PyTorch's kernels are made for texts that do not fit on a multiprocessor: they keep sums between several launches, and
draw dropout by a generator whose state a launch of its own reads. Up to `LONGEST` tokens a block has all keys of a head
and a text, computes weights again in the backward pass, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from dora_cli.methods import takes_triton
from dora_cli.methods.low_rank.lean.seam import Joint, Seam
from dora_cli.models.short_attention.operators import LONGEST, AttentionState, Kernels, short, short_beside

NAME = "dora_short"
"""What it is called among transformers' ways of computing attention."""

FAMILIES = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Model types that are held against PyTorch's attention by tests."""

_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))
"""What those families call the projections of an attention module."""

_HALF = (torch.bfloat16, torch.float16)


class ShortAttention:
    """The attention of one model.

    Args:
        model: of `FAMILIES`, on the device that it stays on.
        kernels: what computes it there.
    """

    def __init__(self, model: nn.Module, kernels: Kernels) -> None:
        self._model: Any = model
        self.state = AttentionState(kernels, next(model.parameters()).device)
        _register()

    @contextmanager
    def around(self) -> Iterator[None]:
        """A forward and backward pass of training."""
        before = self._model.config._attn_implementation
        try:
            self._model.set_attn_implementation(NAME)
            with self.state.around():
                yield
        finally:
            self._model.set_attn_implementation(before)


def short_attention(model: nn.Module, dtype: torch.dtype | None, longest: int) -> ShortAttention | None:
    """That of `model`; None where PyTorch's has to do.

    Args:
        dtype: autocast's; None without.
        longest: tokens of the widest batch of training.
    """
    device = next(model.parameters()).device
    if not takes_triton(device) or torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return None  # without tensor cores of bf16, and with AMD's, the kernels are not tried
    if dtype not in _HALF or longest > LONGEST or not suits(model):
        return None
    from dora_cli.models.short_attention.triton_kernels import TritonAttention, has_memory

    config: Any = model.config
    width = config.hidden_size // config.num_attention_heads
    return ShortAttention(model, TritonAttention()) if has_memory(device, longest, width) else None


def suits(model: nn.Module) -> bool:
    """Whether `model` hands over its attention as those do that are tested, and computes no part of a pass twice."""
    config: Any = getattr(model, "config", None)
    return (
        getattr(config, "model_type", None) in FAMILIES
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and not getattr(config, "is_decoder", False)
        and not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        and hasattr(model, "set_attn_implementation")
        and _can_be_told(model)
        and _register()
    )


def _can_be_told(model: Any) -> bool:
    """Whether transformers lets it compute attention otherwise than it was made with: by its own, private word, without
    which it only warns and goes on as before.
    """
    asked = getattr(model, "_can_set_attn_implementation", None)
    return asked is not None and bool(asked())


@cache
def _register() -> bool:
    """Makes it known to transformers; False where its versions make their masks themselves."""
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError:
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, seen_keys)
    return True


def seen_keys(
    batch_size: int, *_: Any, kv_length: int, attention_mask: torch.Tensor | None = None, **sizes: Any
) -> torch.Tensor | None:
    """The mask of a bidirectional encoder, with the signature of transformers' mask functions.

    Args:
        batch_size: of texts.
        kv_length: tokens of each.
        attention_mask: ``(texts, tokens)``, 0 for those that nobody sees; None where all are seen.

    Returns:
        Booleans, one for all queries of a text, expanded to ``(texts, 1, tokens, tokens)``.
    """
    if attention_mask is None:
        return None
    seen = attention_mask.to(torch.bool)[:, None, None, :]
    return seen.expand(batch_size, 1, sizes.get("q_length", kv_length), kv_length)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """With the signature of transformers' attention functions, whose ``sdpa`` it is for what is not short.

    Args:
        query, key, value: ``(texts, heads, tokens, width)``.
        attention_mask: which keys are seen, boolean; None for all.
        dropout: of the weights.
        scaling: of the scores; None is ``width ** -0.5``.

    Returns:
        ``(texts, tokens, heads, width)``, and None for the weights, which are not kept.
    """
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    if (
        query.shape[2] > LONGEST
        or query.shape != key.shape
        or is_causal
        or (attention_mask is not None and attention_mask.dtype != torch.bool)
    ):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    beside = _all_beside(module, query)
    if beside is not None and beside.dtype == dtype:
        return short_beside(beside, attention_mask, query.shape[1], dropout, scale)[0], None
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return short(query, key, value, attention_mask, dropout, scale)[0], None


def _all_beside(module: nn.Module, query: torch.Tensor) -> torch.Tensor | None:
    """Queries, keys and values beside each other, ``(texts, tokens, 3 * heads * width)``, where one operator of
    compiled blocks has just given them for the attention of `module`: their gradient is one tensor then, which nobody
    has to put together. The models of `FAMILIES` do no more with them than to tell heads apart.
    """
    found = [[module._modules.get(name) for name in names] for names in _PROJECTIONS]
    seams = [seam for seam in next(filter(all, found), ()) if isinstance(seam, Seam)]
    joint = seams[0].joint if len(seams) == 3 else None
    if not isinstance(joint, Joint) or any(
        seam.joint is not joint or seam.place != place for place, seam in enumerate(seams)
    ):
        return None
    whole = joint.take()
    texts, heads, tokens, width = query.shape
    return whole if whole is not None and whole.shape == (texts, tokens, 3 * heads * width) else None
