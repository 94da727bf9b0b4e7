"""The model in a search: it reads the prompts of a batch once, then a token of every row at a time."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from dora_cli.evaluation.search.attention import attending, group_of, shares
from dora_cli.evaluation.search.cache import KeysValues, StaticCache
from dora_cli.evaluation.search.shared import SharedCache

Batch = dict[str, torch.Tensor]


class Reader:
    """Reads for a search whose rows are `beams` times as many as its sources.

    Its batches have one shape. After `prompts`, each `next` reads one token of every row, and `follow` says which. Both
    do the same work on the same memory every time and ask the host nothing; all that differs is in tensors.

    Args:
        model: of a kind that `suitable` knows, in evaluation mode.
        beams: rows of every source.
        room: tokens of an output at most.
        written: int64 0-d, how many tokens of the outputs there are.
        dtype: what autocast computes in, if it is on: attention would cast what is kept to it in every step.
    """

    def __init__(
        self, model: nn.Module, *, beams: int, room: int, written: torch.Tensor, dtype: torch.dtype | None
    ) -> None:
        self._model, self._beams, self._room, self._written, self._dtype = model, beams, room, written, dtype
        config: Any = model.config
        self._both: bool = config.is_encoder_decoder
        embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
        self._mask_type = dtype or embeddings.weight.dtype
        known = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"
        self._has_positions = "position_ids" in known and not self._both
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self._shares = shares(model)
        self._cache: StaticCache | SharedCache | None = None

    def prompts(self, batch: Batch) -> torch.Tensor:
        """Reads a batch of `EncodedSources`, always of the same shape; returns the logits of the first token of every
        row, ``(rows, vocabulary)``.
        """
        positions = {"position_ids": _positions(batch["attention_mask"])} if self._has_positions else {}
        outputs = self._model(**batch, **positions, **self._last_only, use_cache=True)
        own, cross = _keys_and_values(outputs[self._cache_name])
        if self._cache is None:
            self._cache = self._make(own, cross, outputs)
        real = batch["attention_mask"].bool()
        if self._both:
            copies = 1 if self._shares else self._beams
            mask = real.repeat_interleave(copies, dim=0)
            self._encoder_mask.copy_(self._as_mask(mask[:, None, None]))
            self._encoded.copy_(outputs.encoder_last_hidden_state.repeat_interleave(copies, dim=0))
        else:
            self._lengths.copy_(real.sum(dim=1).repeat_interleave(self._beams))
        self._cache.fill(own, cross, None if self._both else real)
        return outputs.logits[:, -1].repeat_interleave(self._beams, dim=0)

    def _make(self, own: KeysValues, cross: KeysValues | None, outputs: Any) -> StaticCache | SharedCache:
        """The memory for batches of the shape of the first one."""
        (sources, heads, _, _), device = own[0][0].shape, own[0][0].device
        rows, room = sources * self._beams, self._room - 1  # the last token is written, not read
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        if self._both:
            hidden, copies = outputs.encoder_last_hidden_state, sources if self._shares else rows
            self._encoded = hidden.new_empty(copies, *hidden.shape[1:])
            seen = torch.zeros(copies, 1, 1, hidden.shape[1], dtype=torch.bool, device=device)
            self._encoder_mask = self._as_mask(seen)
        if self._shares:
            group = group_of(self._model, heads)
            return SharedCache(own, cross, beams=self._beams, group=group, room=room, dtype=self._dtype)
        return StaticCache(own, cross, beams=self._beams, room=room, dtype=self._dtype)

    def columns_for(self, tokens: int, step: int) -> int:
        """How many columns the model must see to read the last of `tokens`, rounded up by whole `step` of tokens."""
        assert self._cache is not None
        return self._cache.columns_for(tokens, step)

    def next(self, columns: int) -> torch.Tensor:
        """Logits after one more token of every row, ``(rows, vocabulary)``; the model sees the first `columns`."""
        assert self._cache is not None
        mask = self._as_mask(self._cache.show(columns, self._written))
        inputs: dict[str, Any] = {self._cache_name: self._cache.cache, "use_cache": True}
        if self._both:
            inputs |= {
                "encoder_outputs": BaseModelOutput(last_hidden_state=self._encoded),
                "attention_mask": self._encoder_mask,
                "decoder_input_ids": self._tokens,
                "decoder_attention_mask": mask,
            }
        else:
            inputs |= {"input_ids": self._tokens, "attention_mask": mask}
            if self._has_positions:
                inputs["position_ids"] = (self._lengths + self._written - 1)[:, None]
        with attending(self._model) if self._shares else nullcontext():
            logits: torch.Tensor = self._model(**inputs).logits
        return logits[:, -1]

    def follow(self, tokens: torch.Tensor, rows: torch.Tensor | None, columns: int) -> None:
        """Row `i` reads ``tokens[i]`` next, after what row ``rows[i]`` has read in the first `columns`."""
        self._tokens.copy_(tokens[:, None])
        if rows is not None:
            assert self._cache is not None
            self._cache.follow(rows, columns)

    def _as_mask(self, seen: torch.Tensor) -> torch.Tensor:
        """A mask that is added to the attention's logits: no layer need make one of booleans."""
        zeros = torch.zeros(seen.shape, dtype=self._mask_type, device=seen.device)
        return zeros.masked_fill(~seen, torch.finfo(self._mask_type).min)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """The place of every token among those of its row that are real."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


def _keys_and_values(cache: Any) -> tuple[KeysValues, KeysValues | None]:
    """Those of the decoder's own attention and, beside an encoder, those of its attention to the encoder's outputs."""
    if isinstance(cache, EncoderDecoderCache):
        return _of(cache.self_attention_cache), _of(cache.cross_attention_cache)
    return _of(cache), None


def _of(cache: Any) -> KeysValues:
    return [(layer.keys, layer.values) for layer in cache.layers]
