"""Keys and values of all layers in one piece of memory, which is written to in place: a column for every token.

The columns of a prompt come first and are the same for all beams of a source, so that going on from another beam moves
the columns behind them alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, EncoderDecoderCache

KeysValues = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""A pair for every layer, each ``(sources, heads, columns, width of a head)``."""

_PIECE = 2**28
"""Bytes that are moved at a time: so much memory is taken beside."""


@contextmanager
def _one_outcome() -> Iterator[None]:
    """Around a copy to one place, which has one outcome: under PyTorch's deterministic algorithms it would ask the host
    whether the place is there.
    """
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn)


class _SelfAttention(CacheLayerMixin):
    """One layer's keys and values, of which the model sees the first columns."""

    is_compileable = True  # it is written to in place, so masks are made from tensors alone
    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, column: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.column, self.visible = column, keys.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the memory is there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes those of one more token, ``(rows, heads, 1, width)``; returns all that is visible."""
        place = self.column.view(1)
        with _one_outcome():
            self.keys.index_copy_(2, place, key_states.to(self.keys.dtype))
            self.values.index_copy_(2, place, value_states.to(self.values.dtype))
        return self.keys[:, :, : self.visible], self.values[:, :, : self.visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.visible, 0

    def get_seq_length(self) -> Any:
        return self.column

    def get_max_length(self) -> int:
        return self.visible


class _CrossAttention(CacheLayerMixin):
    """One layer's keys and values of what an encoder has read: they are there, and never change within a batch."""

    is_compileable = True
    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the memory is there."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an encoder has read all there is")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2])

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class StaticCache:
    """What the model has read, of `beams` rows for every source.

    Args:
        own: keys and values of the prompts that the self-attentions have read.
        cross: those of the encoder's outputs; None without an encoder.
        beams: rows of every source.
        room: columns behind those of the prompts.
        dtype: what keys and values are kept in; None for their own type.
    """

    def __init__(
        self, own: KeysValues, cross: KeysValues | None, *, beams: int, room: int, dtype: torch.dtype | None
    ) -> None:
        self.column = torch.zeros((), dtype=torch.int64, device=own[0][0].device)
        """Where the next token's keys and values go."""
        self.prompt = own[0][0].shape[2]
        self._beams = beams
        self._own = _memory(own, beams, room, dtype)
        self._layers = [_SelfAttention(keys, values, self.column) for keys, values in _by_layer(self._own)]
        decoder = Cache(layers=self._layers)
        if cross is None:
            self._cross, self.cache = None, decoder
            return
        self._cross = _memory(cross, beams, 0, dtype)
        read = [_CrossAttention(keys, values) for keys, values in _by_layer(self._cross)]
        self.cache = EncoderDecoderCache(decoder, Cache(layers=read))

    @property
    def columns(self) -> int:
        """All there is room for."""
        return int(self._own.shape[2])

    def show(self, columns: int) -> None:
        """Has the model see the first `columns` alone: those behind are not written yet."""
        assert self.prompt < columns <= self.columns
        for layer in self._layers:
            layer.visible = columns

    def fill(self, own: KeysValues, cross: KeysValues | None) -> None:
        """Takes the prompts of another batch, of the same shapes."""
        _fill(self._own, own, self._beams)
        self._own[:, :, self.prompt :].zero_()  # what is masked counts zero times, which must not be infinite
        if cross is not None:
            assert self._cross is not None
            _fill(self._cross, cross, self._beams)

    def follow(self, rows: torch.Tensor, columns: int) -> None:
        """Has every row go on from what row ``rows[i]``, of the same source, has read, in the first `columns`."""
        written = self._own[:, :, self.prompt : columns]
        at_a_time = max(1, _PIECE // max(1, written[0].numel() * written.element_size()))
        for part in written.split(at_a_time):
            part.copy_(part.index_select(1, rows))


def _memory(layers: KeysValues, beams: int, room: int, dtype: torch.dtype | None) -> torch.Tensor:
    """Zeros for keys and values in turn, ``(2 * layers, sources * beams, columns + room, heads, width)``."""
    (sources, heads, columns, width), device = layers[0][0].shape, layers[0][0].device
    assert all(tensor.shape == layers[0][0].shape for pair in layers for tensor in pair)
    shape = 2 * len(layers), sources * beams, columns + room, heads, width
    return torch.zeros(shape, dtype=dtype or layers[0][0].dtype, device=device)


def _by_layer(memory: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer as attention takes them, ``(rows, heads, columns, width)``."""
    views = memory.transpose(2, 3)
    return zip(views[0::2], views[1::2], strict=True)


def _fill(memory: torch.Tensor, layers: KeysValues, beams: int) -> None:
    """Writes the prompts' columns, the same in all rows of a source."""
    sources, _, columns, _ = layers[0][0].shape
    by_source = memory.unflatten(1, (sources, beams))
    for place, tensor in zip(by_source, (tensor for pair in layers for tensor in pair), strict=True):
        place[:, :, :columns] = tensor.transpose(1, 2)[:, None]
