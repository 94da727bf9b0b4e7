"""Attention within each of several texts that stand in one row, for models of transformers.

On CUDA under bf16 and fp16 it is PyTorch's attention over texts of different lengths, which reads where they begin from
a tensor on the device; elsewhere attention under a mask, or on the CPU over one text after the other, unless it is
compiled. Nothing waits for the device, so that a pass can be captured, and replayed with texts of other lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn import functional

NAME, KERNEL = "dora_packed", "dora_packed_by_kernel"
"""What the two ways of computing attention are called among those of transformers: as it stands, and by PyTorch's
attention over texts wherever that can be.
"""

Attend = Callable[..., Any]
"""PyTorch's attention over texts of different lengths."""

FAMILIES = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2", "qwen3"})
"""Model types that are held against their padded batches by tests: they hand everything on to their attention, and take
the position of every token.
"""

_DROPOUTS = ("attention_dropout", "attn_pdrop")
"""What configs call the dropout of attention's weights, which PyTorch's attention over texts does not draw."""

_LARGEST_HEAD = 256
_HALF = (torch.bfloat16, torch.float16)


class PackedRows:
    """Passes of `model` over rows of several texts.

    Args:
        model: of `FAMILIES`, with its adapters.
        longest: tokens of the longest text of any row.
    """

    def __init__(self, model: nn.Module, longest: int) -> None:
        from transformers import AttentionInterface

        self._model: Any = model
        self._longest, self._name = longest, NAME
        AttentionInterface.register(NAME, packed_attention)
        width, attend = head_width(model), varlen_attention()
        # known before, as code that is compiled cannot ask for it
        if attend is not None and width is not None and has_kernel(next(model.parameters()).device, _HALF[0], width):
            self._name = KERNEL
            AttentionInterface.register(KERNEL, _by_kernel(attend, shares_keys=_shares_keys()))

    @contextmanager
    def around(self) -> Iterator[dict[str, int]]:
        """Around a forward pass, and a backward pass that computes parts of it again; yields what the model is called
        with besides a batch.
        """
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(self._name)
        try:
            yield {"max_length_q": self._longest}
        finally:
            self._model.set_attn_implementation(before)


def in_rows(rows: PackedRows | None) -> AbstractContextManager[dict[str, int]]:
    """`PackedRows.around`; without `rows` nothing is changed, and nothing is called for besides a batch."""
    return nullcontext({}) if rows is None else rows.around()


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    attend: Attend | None = None,
    shares_keys: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of every text to itself, with the signature of transformers' attention functions.

    Args:
        query: ``(1, heads, T, d)``.
        key, value: ``(1, key heads, T, d)``, of which each serves as many heads.
        attention_mask: not read.
        cu_seq_lens_q: where texts begin, int32 ``(texts + 1,)``; the last entry is `T`. Texts may be empty.
        max_length_q: no text is longer.
        scaling: of the scores; None is ``d ** -0.5``.
        dropout: of the weights.
        sliding_window: how many tokens a token sees, itself included; None all before it.
        attend: what computes it under bf16 and fp16 where no weight is dropped; None to compute it otherwise.
        shares_keys: whether `attend` takes fewer heads of keys than of queries.

    Returns:
        ``(1, T, heads, d)``, and None for the weights, which are not kept.
    """
    assert query.shape[0] == 1
    # rotations may have made queries and keys fp32; other attention of PyTorch rounds them by itself
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if sliding_window is not None and sliding_window >= max_length_q:
        sliding_window = None
    if attend is not None and not dropout and dtype in _HALF:
        back = -1 if sliding_window is None else sliding_window - 1
        shared = query.shape[1] != key.shape[1]
        if shared and not shares_keys:
            key, value, shared = _spread(key, query), _spread(value, query), False
        out = attend(
            *(part[0].transpose(0, 1) for part in (query, key, value)),
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(back, 0),
            **({"enable_gqa": True} if shared else {}),
        )
        return out[None], None
    key, value = _spread(key, query), _spread(value, query)
    way = _one_by_one if kind == "cpu" and not torch.compiler.is_compiling() else _masked
    return way(query, key, value, cu_seq_lens_q, dropout, scaling, sliding_window).transpose(1, 2).contiguous(), None


def _spread(shared: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values, once for every head of queries, ``(1, heads, T, d)``."""
    groups = query.shape[1] // shared.shape[1]
    return shared if groups == 1 else shared.repeat_interleave(groups, 1)


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One text after the other, on the CPU, where their lengths are at hand."""
    lengths = begins.diff().tolist()
    texts = zip(*(part.split(lengths, 2) for part in (query, key, value)), strict=True)
    found = []
    for q, k, v in texts:
        if length := q.shape[2]:
            narrow = window is not None and window < length
            mask = _seen(torch.zeros(length, dtype=torch.int64), window) if narrow else None
            found.append(
                functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
                )
            )
    return torch.cat(found, 2)


def _masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All texts at once, under a mask that is made on the device."""
    places = torch.arange(query.shape[2], device=query.device, dtype=begins.dtype)
    mask = _seen(torch.searchsorted(begins, places, right=True), window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)


def _seen(text: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which tokens each token sees, ``(T, T)``, where `text` tells the text of each, ``(T,)``."""
    places = torch.arange(len(text), device=text.device)
    back = places[:, None] - places
    seen = (text[:, None] == text) & (back >= 0)
    return seen if window is None else seen & (back < window)


@cache
def _by_kernel(attend: Attend, *, shares_keys: bool) -> Callable[..., tuple[torch.Tensor, None]]:
    """`packed_attention` by it: one and the same for all models, which compiled code is checked for."""
    return partial(packed_attention, attend=attend, shares_keys=shares_keys)


@cache
def varlen_attention() -> Attend | None:
    """PyTorch's attention over texts of different lengths; None where it is missing, or knows no scale or no windows
    yet.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size"} <= set(known) else None


@cache
def _shares_keys() -> bool:
    """Whether that attention takes fewer heads of keys than of queries, as it does from PyTorch 2.13 on."""
    attend = varlen_attention()
    return attend is not None and "enable_gqa" in signature(attend).parameters


def has_kernel(device: torch.device, dtype: torch.dtype, *widths: int) -> bool:
    """Whether `varlen_attention` computes heads of these widths on `device`."""
    return (
        device.type == "cuda"
        and dtype in _HALF
        and varlen_attention() is not None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and len(set(widths)) == 1
        and all(width % 8 == 0 and width <= _LARGEST_HEAD for width in widths)
    )


def head_width(model: nn.Module) -> int | None:
    """Entries of a head of the attention of a model of `FAMILIES`; None where its config does not tell."""
    config: Any = getattr(model, "config", None)
    width = getattr(config, "head_dim", None)
    if width is None and getattr(config, "num_attention_heads", None):
        width = config.hidden_size // config.num_attention_heads
    return width


def attention_dropout(model: nn.Module) -> float:
    """The dropout of attention's weights, by the config of `model`."""
    config = getattr(model, "config", None)
    return max(float(getattr(config, name, 0.0) or 0.0) for name in _DROPOUTS)
