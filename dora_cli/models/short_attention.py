"""Attention of encoders over short texts by two kernels, within training passes on a GPU.

PyTorch's kernels are made for texts that do not fit on a multiprocessor: they keep sums between several launches, and
draw dropout by a generator whose state a launch of its own reads. Up to `LONGEST` tokens one block has all weights of a
head, draws them again in the backward pass, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import nn

from dora_cli.errors import ModelError
from dora_cli.methods import takes_triton

NAME = "dora_short"
"""What it is called among transformers' ways of computing attention."""

LONGEST = 128
"""Tokens of the longest text."""

FAMILIES = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Model types that are held against PyTorch's attention by tests."""

_HALF = (torch.bfloat16, torch.float16)
_numbers = count()
_here: WeakValueDictionary[int, ShortAttention] = WeakValueDictionary()
_present: ContextVar[ShortAttention | None] = ContextVar("short_attention", default=None)


class Kernels(Protocol):
    """What computes it: of `query`, `key` and `value`, ``(texts, heads, tokens, width)``, and `mask`, boolean, which
    can be expanded to ``(texts, 1, tokens, tokens)``, or None.

    Weights are dropped as `dropout.hashed_keep` says: rows are those of ``(texts, heads, tokens)``, columns the keys.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        seed: torch.Tensor,
        call: int,
        dropout: float,
        scaling: float,
    ) -> torch.Tensor:
        """``(texts, tokens, heads, width)``; zeros for a query that sees nothing."""
        ...

    def backward(
        self,
        gradient: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        seed: torch.Tensor,
        call: int,
        dropout: float,
        scaling: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradients of query, key and value, from that of what `forward` gave."""
        ...


class ShortAttention:
    """The attention of one model.

    Args:
        model: of `FAMILIES`, on the device that it stays on.
        kernels: what computes it there.
    """

    def __init__(self, model: nn.Module, kernels: Kernels) -> None:
        self._model: Any = model
        self.kernels = kernels
        self.seed = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
        self._calls = 0
        self.number = next(_numbers)
        _here[self.number] = self

    @contextmanager
    def around(self) -> Iterator[None]:
        """A forward and backward pass of training. Dropout of each is drawn anew, by one call of the device's own
        generator.
        """
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(NAME)
        token = _present.set(self)
        self.seed.random_()
        self._calls = 0
        try:
            yield
        finally:
            _present.reset(token)
            self._model.set_attn_implementation(before)

    def next_call(self) -> int:
        """Which use of the seed comes next."""
        self._calls += 1
        return self._calls


def short_attention(model: nn.Module, dtype: torch.dtype | None, longest: int) -> ShortAttention | None:
    """That of `model`; None where PyTorch's has to do.

    Args:
        dtype: autocast's; None without.
        longest: tokens of the widest batch of training.
    """
    device = next(model.parameters()).device
    if not takes_triton(device) or dtype not in _HALF or longest > LONGEST or not suits(model):
        return None
    from dora_cli.models.triton_attention import TritonAttention, has_memory

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
        and _register()
    )


def shortly(attention: ShortAttention | None) -> AbstractContextManager[None]:
    """`ShortAttention.around`; without it nothing is changed."""
    return nullcontext() if attention is None else attention.around()


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
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return short(query, key, value, attention_mask, dropout, scale)[0], None


@torch.library.custom_op("dora::short_attention", mutates_args=())
def short(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(texts, tokens, heads, width)``, and whose attention this is and which of its calls."""
    attention = _present.get()
    if attention is None:
        raise ModelError(
            "the model computes its attention again within the backward pass (activation checkpointing) without saying "
            "so; turn that off in the model, or set train.cuda_graph: off"
        )
    call = attention.next_call()
    out = attention.kernels.forward(query, key, value, mask, attention.seed, call, dropout, scaling)
    return out, torch.tensor([attention.number, call])


@torch.library.custom_op("dora::short_attention_backward", mutates_args=())
def short_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    call: torch.Tensor,
    dropout: float,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of query, key and value."""
    number, use = call.tolist()
    attention = _here[number]
    return attention.kernels.backward(gradient, query, key, value, mask, attention.seed, use, dropout, scaling)


@short.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    texts, heads, length, width = query.shape
    return query.new_empty(texts, length, heads, width), torch.empty(2, dtype=torch.int64)


@short_backward.register_fake
def _(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    call: torch.Tensor,
    dropout: float,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    texts, heads, length, width = query.shape
    one, two, three = (query.new_empty(texts, length, heads, width).transpose(1, 2) for _ in range(3))
    return one, two, three


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, mask, ctx.dropout, ctx.scaling = inputs
    ctx.save_for_backward(query, key, value, mask, output[1])


def _differentiate(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *short_backward(gradient, *ctx.saved_tensors, ctx.dropout, ctx.scaling), None, None, None


short.register_autograd(_differentiate, setup_context=_setup)
