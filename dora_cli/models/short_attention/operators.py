"""Attention over short texts as operators of PyTorch's own library, which a compiler calls and does not look into.

Which kernels compute it and what they draw from is read when an operator runs: forward from the pass that it is in,
backward from a number that the forward pass has given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch

from dora_cli.methods.low_rank.arithmetic.dropout import computed_twice, refuse_in_backward

LONGEST = 128
"""Tokens of the longest text that kernels take."""

_numbers = count()
_here: WeakValueDictionary[int, AttentionState] = WeakValueDictionary()
_present: ContextVar[AttentionState | None] = ContextVar("short_attention", default=None)


class Drawn(NamedTuple):
    """A dropout of weights, as `dropout.hashed_keep` draws it: rows are those of ``(texts, heads, tokens)``, columns
    the keys.

    Attributes:
        seed: int64 scalar on the device.
        call: which use of the seed.
        probability: that a weight is dropped.
    """

    seed: torch.Tensor
    call: int
    probability: float


class Given(NamedTuple):
    """What attention is computed of.

    Attributes:
        query, key, value: ``(texts, heads, tokens, width)``.
        mask: boolean, which can be expanded to ``(texts, 1, tokens, tokens)``; None where all is seen.
        drawn: the dropout of weights.
        scaling: of scores.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    drawn: Drawn
    scaling: float


class Kernels(Protocol):
    """What computes it."""

    def forward(self, given: Given) -> torch.Tensor:
        """``(texts, tokens, heads, width)``; zeros for a query that sees nothing."""
        ...

    def backward(self, gradient: torch.Tensor, given: Given, into: Sequence[torch.Tensor]) -> None:
        """Writes the gradients of query, key and value, from that of what `forward` gave, `into` three tensors of the
        shape of that, alike in memory, whose heads lie one after the other.
        """
        ...


class AttentionState:
    """What the passes of one model compute attention by: kernels, and a seed with its uses.

    Args:
        kernels: on `device`.
        device: that the model is on.

    Attributes:
        seed: of the dropouts of the present pass, int64 scalar.
    """

    def __init__(self, kernels: Kernels, device: torch.device) -> None:
        self.kernels = kernels
        self.seed = torch.zeros((), dtype=torch.int64, device=device)
        self._calls = 0
        self.number = next(_numbers)
        _here[self.number] = self

    @contextmanager
    def around(self) -> Iterator[None]:
        """A forward pass, and what of the backward pass is within it: operators compute by these. Dropout of each pass
        is drawn anew, by one call of the device's own generator.
        """
        token = _present.set(self)
        try:
            self.seed.random_()
            self._calls = 0
            yield
        finally:
            _present.reset(token)

    def next_call(self) -> int:
        """Which use of the seed comes next."""
        self._calls += 1
        return self._calls


def is_within() -> bool:
    """Whether a pass is within `AttentionState.around`."""
    return _present.get() is not None


def _call(dropout: float) -> tuple[AttentionState, int]:
    """What a pass computes by, and which use of its seed this is: one without dropout is none, so that a model may be
    looked at on the way.
    """
    state, said = _present.get(), ("its attention", "would drop other weights", "train.precision: fp32")
    refuse_in_backward(*said)
    if state is None:  # in a thread of autograd's own
        raise computed_twice(*said)
    return state, state.next_call() if dropout else 0


@torch.library.custom_op("dora::short_attention", mutates_args=())
def short(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(texts, tokens, heads, width)``, and what has computed it, and which use of the seed it was."""
    state, call = _call(dropout)
    out = state.kernels.forward(Given(query, key, value, mask, Drawn(state.seed, call, dropout), scaling))
    return out, torch.tensor([state.number, call])


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
    state = _here[number]
    dq, dk, dv = into = tuple(query.new_empty(gradient.shape) for _ in range(3))
    given = Given(query, key, value, mask, Drawn(state.seed, use, dropout), scaling)
    state.kernels.backward(gradient, given, into)
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


@torch.library.custom_op("dora::short_attention_beside", mutates_args=())
def short_beside(
    whole: torch.Tensor, mask: torch.Tensor | None, heads: int, dropout: float, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of all three beside each other, ``(texts, tokens, 3 * heads * width)``."""
    state, call = _call(dropout)
    query, key, value = (part.transpose(1, 2) for part in _parts(whole, heads))
    out = state.kernels.forward(Given(query, key, value, mask, Drawn(state.seed, call, dropout), scaling))
    return out, torch.tensor([state.number, call])


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
    state, found = _here[number], torch.empty_like(whole)
    query, key, value = (part.transpose(1, 2) for part in _parts(whole, heads))
    into = _parts(found, heads)
    given = Given(query, key, value, mask, Drawn(state.seed, use, dropout), scaling)
    state.kernels.backward(gradient, given, into)
    return found


def _parts(whole: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Views, ``(texts, tokens, heads, width)`` each."""
    return whole.view(*whole.shape[:2], 3, heads, -1).unbind(2)


@short.register_fake
def _(query: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    texts, heads, length, width = query.shape
    return query.new_empty(texts, length, heads, width), torch.empty(2, dtype=torch.int64)


@short_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    one, two, three = (query.new_empty(gradient.shape).transpose(1, 2) for _ in range(3))
    return one, two, three


@short_beside.register_fake
def _(whole: torch.Tensor, mask: torch.Tensor | None, heads: int, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    texts, length, width = whole.shape
    return whole.new_empty(texts, length, heads, width // 3 // heads), torch.empty(2, dtype=torch.int64)


@short_beside_backward.register_fake
def _(gradient: torch.Tensor, whole: torch.Tensor, *_: Any) -> torch.Tensor:
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
