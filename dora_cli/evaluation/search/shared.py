"""Keys and values of all layers with one row for every source, which all of its beams attend to.

The columns of a source's prompt come first, once for all beams; behind them stands, token by token, what each beam has
read. Nothing moves when a beam goes on from another one: which column belongs to which beam's text is a table of small
numbers, from which a step makes one mask for all layers. In return every beam's query meets the columns of all beams of
its source; that product is one of matrices, and in it each key is read once, not once a beam. What an encoder has read
is the same for all beams, too.
"""

from __future__ import annotations

import torch
from transformers import Cache
from transformers.cache_utils import EncoderDecoderCache

from dora_cli.evaluation.search.cache import (
    CrossAttention,
    KeysValues,
    SelfAttention,
    by_layer,
    fill,
    in_eights,
    memory_for,
)


class SharedCache:
    """What the model has read, of `beams` rows for every source; for models that attend by `beams_as_queries`.

    Args:
        own: keys and values of the prompts that the self-attentions have read.
        cross: those of the encoder's outputs; None without an encoder.
        beams: rows of every source.
        group: query heads of every head of keys and values.
        room: tokens behind the prompts.
        dtype: what keys and values are kept in; None for their own type.
    """

    def __init__(
        self,
        own: KeysValues,
        cross: KeysValues | None,
        *,
        beams: int,
        group: int,
        room: int,
        dtype: torch.dtype | None,
    ) -> None:
        (sources, _, self._prompt, _), device = own[0][0].shape, own[0][0].device
        self._beams, self._group, self._room = beams, group, room
        self._read = torch.zeros((), dtype=torch.int64, device=device)
        self._places = torch.zeros(beams, dtype=torch.int64, device=device)
        self._own = memory_for(own, 1, in_eights(self._prompt + room * beams), dtype)
        self._layers = [SelfAttention(*pair, self._read, self._places) for pair in by_layer(self._own)]
        self._prompts = torch.ones(sources, 1, self._prompt, dtype=torch.bool, device=device)
        behind = torch.arange(self._own.shape[2] - self._prompt, device=device)
        self._token_of, self._beam_of = behind // beams, behind % beams
        self._beam = torch.arange(beams, device=device)
        self._tokens = torch.arange(-(-len(behind) // beams), device=device)
        # of every token of a row's text: the beam that read it, and in whose column it stands; -1 if none has
        self._reader = torch.full((sources * beams, len(self._tokens)), -1, dtype=torch.int64, device=device)
        decoder = Cache(layers=self._layers)
        if cross is None:
            self._cross, self.cache = None, decoder
            return
        self._cross = memory_for(cross, 1, cross[0][0].shape[2], dtype)
        read = [CrossAttention(*pair) for pair in by_layer(self._cross)]
        self.cache = EncoderDecoderCache(decoder, Cache(layers=read))

    def fill(self, own: KeysValues, cross: KeysValues | None, real: torch.Tensor | None) -> None:
        """Takes the prompts of another batch, of the same shapes.

        Args:
            real: bool ``(sources, columns)``, which tokens of the decoder's prompts are real; None for all.
        """
        fill(self._own, own, 1)
        if cross is not None:
            assert self._cross is not None
            fill(self._cross, cross, 1)
        self._reader.fill_(-1)
        if real is not None:
            self._prompts.copy_(real[:, None])

    def columns_for(self, tokens: int, step: int) -> int:
        """How many columns the model must see to read the last of `tokens`, which are rounded up so that, with those of
        a prompt, there is a multiple of `step`.
        """
        tokens = min(-(-(self._prompt + tokens) // step) * step - self._prompt, self._room)
        return in_eights(self._prompt + tokens * self._beams)

    def show(self, columns: int, written: torch.Tensor) -> torch.Tensor:
        """Has the model see the first `columns` alone, and read the last of `written` tokens.

        Returns:
            Which columns every query attends to, bool ``(sources, 1, beams * group, columns)``, the queries in the
            order of `attention.beams_as_queries`.
        """
        assert self._prompt < columns <= self._own.shape[2]
        for layer in self._layers:
            layer.visible = columns
        self._read.copy_(written + (self._prompt - 1))
        self._places.copy_(self._beam + (written - 1) * self._beams + self._prompt)
        by_source = self._reader.unflatten(0, (-1, self._beams))
        by_source.copy_(torch.where(self._tokens == written - 1, self._beam[:, None], by_source))
        behind = columns - self._prompt
        own = by_source.index_select(2, self._token_of[:behind]) == self._beam_of[:behind]
        seen = torch.cat((self._prompts.expand(-1, self._beams, -1), own), dim=2)
        return seen[:, :, None].expand(-1, -1, self._group, -1).flatten(1, 2)[:, None]

    def follow(self, rows: torch.Tensor, columns: int) -> None:
        """Has every row go on from what row ``rows[i]``, of the same source, has read, in the first `columns`."""
        self._reader.copy_(self._reader.index_select(0, rows))
