"""Attention of encoders over short texts by two kernels, within training passes on a GPU.

PyTorch's kernels are made for texts that do not fit on a multiprocessor: they keep sums between several launches, and
draw dropout by a generator whose state a launch of its own reads. Up to `LONGEST` tokens a block has all keys of a head
and a text, computes weights again in the backward pass, and needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import nn

from dora_cli.errors import ModelError
from dora_cli.methods import takes_triton
from dora_cli.methods.low_rank.seam import Seam

NAME = "dora_short"
"""What it is called among transformers' ways of computing attention."""

LONGEST = 128
"""Tokens of the longest text."""

FAMILIES = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Model types that are held against PyTorch's attention by tests."""

_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))
"""What those families call the projections of an attention module."""

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
        into: Sequence[torch.Tensor],
    ) -> None:
        """Writes the gradients of query, key and value, from that of what `forward` gave, `into` three tensors of the
        shape of that, alike in memory, whose heads lie one after the other.
        """
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
        _register()

    @contextmanager
    def around(self) -> Iterator[None]:
        """A forward and backward pass of training. Dropout of each is drawn anew, by one call of the device's own
        generator.
        """
        before = self._model.config._attn_implementation
        with ExitStack() as undo:
            undo.callback(self._model.set_attn_implementation, before)
            self._model.set_attn_implementation(NAME)
            undo.callback(_present.reset, _present.set(self))
            self.seed.random_()
            self._calls = 0
            yield

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
    if not takes_triton(device) or torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return None  # without tensor cores of bf16, and with AMD's, the kernels are not tried
    if dtype not in _HALF or longest > LONGEST or not suits(model):
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


def is_short() -> bool:
    """Whether a pass is within `ShortAttention.around`."""
    return _present.get() is not None


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
    if joint is None or any(seam.joint is not joint or seam.place != place for place, seam in enumerate(seams)):
        return None
    whole = joint.take()
    texts, heads, tokens, width = query.shape
    return whole if whole is not None and whole.shape == (texts, tokens, 3 * heads * width) else None


def _call(dropout: float) -> tuple[ShortAttention, int]:
    """Whose attention a pass is in, and which use of its seed this is: one without dropout is none, so that a model may
    be looked at on the way.
    """
    attention = _present.get()
    if attention is None or torch._C._current_graph_task_id() != -1:
        raise ModelError(
            "the model computes its attention again within the backward pass (activation checkpointing) without saying "
            "so, and would drop other weights; turn that off in the model, or set train.precision: fp32"
        )
    return attention, attention.next_call() if dropout else 0


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
    attention, call = _call(dropout)
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
    dq, dk, dv = into = tuple(query.new_empty(gradient.shape) for _ in range(3))
    attention.kernels.backward(gradient, query, key, value, mask, attention.seed, use, dropout, scaling, into)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


@torch.library.custom_op("dora::short_attention_beside", mutates_args=())
def short_beside(
    whole: torch.Tensor, mask: torch.Tensor | None, heads: int, dropout: float, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of all three beside each other, ``(texts, tokens, 3 * heads * width)``."""
    attention, call = _call(dropout)
    query, key, value = (part.transpose(1, 2) for part in _parts(whole, heads))
    out = attention.kernels.forward(query, key, value, mask, attention.seed, call, dropout, scaling)
    return out, torch.tensor([attention.number, call])


@torch.library.custom_op("dora::short_attention_beside_backward", mutates_args=())
def short_beside_backward(
    gradient: torch.Tensor,
    whole: torch.Tensor,
    mask: torch.Tensor | None,
    call: torch.Tensor,
    heads: int,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """The gradient of all three, beside each other."""
    number, use = call.tolist()
    attention, found = _here[number], torch.empty_like(whole)
    query, key, value = (part.transpose(1, 2) for part in _parts(whole, heads))
    into = _parts(found, heads)
    attention.kernels.backward(gradient, query, key, value, mask, attention.seed, use, dropout, scaling, into)
    return found


def _parts(whole: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Views, ``(texts, tokens, heads, width)`` each."""
    return whole.view(*whole.shape[:2], 3, heads, -1).unbind(2)


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
    one, two, three = (query.new_empty(gradient.shape).transpose(1, 2) for _ in range(3))
    return one, two, three


@short_beside.register_fake
def _(
    whole: torch.Tensor, mask: torch.Tensor | None, heads: int, dropout: float, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    texts, length, width = whole.shape
    return whole.new_empty(texts, length, heads, width // 3 // heads), torch.empty(2, dtype=torch.int64)


@short_beside_backward.register_fake
def _(
    gradient: torch.Tensor,
    whole: torch.Tensor,
    mask: torch.Tensor | None,
    call: torch.Tensor,
    heads: int,
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    return torch.empty_like(whole)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, mask, ctx.dropout, ctx.scaling = inputs
    ctx.save_for_backward(query, key, value, mask, output[1])


def _differentiate(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return *short_backward(gradient, *ctx.saved_tensors, ctx.dropout, ctx.scaling), None, None, None


def _setup_beside(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    whole, mask, *ctx.numbers = inputs
    ctx.save_for_backward(whole, mask, output[1])


def _differentiate_beside(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return short_beside_backward(gradient, *ctx.saved_tensors, *ctx.numbers), None, None, None, None


short.register_autograd(_differentiate, setup_context=_setup)
short_beside.register_autograd(_differentiate_beside, setup_context=_setup_beside)
