"""Keys and values of all layers in one piece of memory, which is written to in place: a row for every row of the
search, a column for every token.

The columns of a prompt come first and are the same for all beams of a source, so that going on from another beam moves
the columns behind them alone. `shared.py` has what needs no moving, for models that can attend to it.
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
    """Around a copy to places that differ, which has one outcome: under PyTorch's deterministic algorithms it would ask
    the host whether the places are there.
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


class SelfAttention(CacheLayerMixin):
    """One layer's keys and values, of which the model sees the first columns.

    Args:
        keys: ``(n, heads, columns, width)``, and so are `values`.
        read: int64 0-d, how many tokens every row has read.
        places: int64 ``(m,)``, the columns that the next token of ``n * m`` rows goes to, those of one `n` together.
    """

    is_compileable = True  # it is written to in place, so masks are made from tensors alone
    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, read: torch.Tensor, places: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.read, self.places, self.visible = read, places, keys.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the memory is there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes those of one more token, ``(rows, heads, 1, width)``; returns all that is visible."""
        with _one_outcome():
            for kept, states in ((self.keys, key_states), (self.values, value_states)):
                states = states.squeeze(2).unflatten(0, (len(kept), -1)).transpose(1, 2)
                kept.index_copy_(2, self.places, states.to(kept.dtype))
        return self.keys[:, :, : self.visible], self.values[:, :, : self.visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.visible, 0

    def get_seq_length(self) -> Any:
        return self.read

    def get_max_length(self) -> int:
        return self.visible


class CrossAttention(CacheLayerMixin):
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
        room: tokens behind the prompts.
        dtype: what keys and values are kept in; None for their own type.
    """

    def __init__(
        self, own: KeysValues, cross: KeysValues | None, *, beams: int, room: int, dtype: torch.dtype | None
    ) -> None:
        (sources, _, self._prompt, _), device = own[0][0].shape, own[0][0].device
        self._beams = beams
        self._read = torch.zeros((), dtype=torch.int64, device=device)
        self._own = memory_for(own, beams, in_eights(self._prompt + room), dtype)
        places = self._read.view(1)  # the token goes where as many have been
        self._layers = [SelfAttention(*pair, self._read, places) for pair in by_layer(self._own)]
        self._columns = torch.arange(self._own.shape[2], device=device)
        # of the prompts, which columns count
        self._prompts = (self._columns < self._prompt).expand(sources * beams, -1).clone()
        decoder = Cache(layers=self._layers)
        if cross is None:
            self._cross, self.cache = None, decoder
            return
        self._cross = memory_for(cross, beams, cross[0][0].shape[2], dtype)
        read = [CrossAttention(keys, values) for keys, values in by_layer(self._cross)]
        self.cache = EncoderDecoderCache(decoder, Cache(layers=read))

    def fill(self, own: KeysValues, cross: KeysValues | None, real: torch.Tensor | None) -> None:
        """Takes the prompts of another batch, of the same shapes.

        Args:
            real: bool ``(sources, columns)``, which tokens of the decoder's prompts are real; None for all.
        """
        fill(self._own, own, self._beams)
        if real is not None:
            self._prompts[:, : self._prompt] = real.repeat_interleave(self._beams, dim=0)
        if cross is not None:
            assert self._cross is not None
            fill(self._cross, cross, self._beams)

    def columns_for(self, tokens: int, step: int) -> int:
        """How many columns the model must see to read the last of `tokens`, rounded up to a multiple of `step`."""
        return int(min(-(-(self._prompt + tokens) // step) * step, self._own.shape[2]))

    def show(self, columns: int, written: torch.Tensor) -> torch.Tensor:
        """Has the model see the first `columns` alone, and read the last of `written` tokens.

        Returns:
            Which columns every row attends to, bool ``(rows, 1, 1, columns)``.
        """
        assert self._prompt < columns <= self._own.shape[2]
        for layer in self._layers:
            layer.visible = columns
        self._read.copy_(written + (self._prompt - 1))
        places = self._columns[:columns]
        seen = self._prompts[:, :columns] | ((places >= self._prompt) & (places <= self._read))
        return seen[:, None, None]

    def follow(self, rows: torch.Tensor, columns: int) -> None:
        """Has every row go on from what row ``rows[i]``, of the same source, has read, in the first `columns`."""
        written = self._own[:, :, self._prompt : columns]
        at_a_time = max(1, _PIECE // max(1, written[0].numel() * written.element_size()))
        for part in written.split(at_a_time):
            part.copy_(part.index_select(1, rows))


def in_eights(columns: int) -> int:
    """`columns`, rounded up: kernels of attention want masks in eights."""
    return -(-columns // 8) * 8


def memory_for(layers: KeysValues, beams: int, columns: int, dtype: torch.dtype | None) -> torch.Tensor:
    """Zeros for keys and values in turn, ``(2 * layers, sources * beams, columns, heads, width)``."""
    (sources, heads, _, width), device = layers[0][0].shape, layers[0][0].device
    assert all(tensor.shape == layers[0][0].shape for pair in layers for tensor in pair)
    shape = 2 * len(layers), sources * beams, columns, heads, width
    return torch.zeros(shape, dtype=dtype or layers[0][0].dtype, device=device)


def by_layer(memory: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer as attention takes them, ``(rows, heads, columns, width)``."""
    views = memory.transpose(2, 3)
    return zip(views[0::2], views[1::2], strict=True)


def fill(memory: torch.Tensor, layers: KeysValues, beams: int) -> None:
    """Writes the prompts' columns, the same in all rows of a source."""
    sources, _, columns, _ = layers[0][0].shape
    by_source = memory.unflatten(1, (sources, beams))
    for place, tensor in zip(by_source, (tensor for pair in layers for tensor in pair), strict=True):
        place[:, :, :columns] = tensor.transpose(1, 2)[:, None]
    memory[:, :, columns:].zero_()  # what is masked counts zero times, which must not be infinite
