"""The model in a search: it reads the prompts of a batch once, then a token of every row at a time."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from dora_cli.evaluation.search.cache import KeysValues, StaticCache

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
        self._columns = 0

    def prompts(self, batch: Batch) -> torch.Tensor:
        """Reads a batch of `EncodedSources`, always of the same shape; returns the logits of the first token of every
        row, ``(rows, vocabulary)``.
        """
        positions = {"position_ids": _positions(batch["attention_mask"])} if self._has_positions else {}
        outputs = self._model(**batch, **positions, **self._last_only, use_cache=True)
        own, cross = _keys_and_values(outputs[self._cache_name])
        if not self._columns:
            self._make(own, cross, outputs)
        self._cache.fill(own, cross)
        mask = batch["attention_mask"].bool().repeat_interleave(self._beams, dim=0)
        if self._both:
            self._encoder_mask.copy_(self._as_mask(mask[:, None, None]))
            self._encoded.copy_(outputs.encoder_last_hidden_state.repeat_interleave(self._beams, dim=0))
        else:
            self._read[:, : self._cache.prompt] = mask
            self._lengths.copy_(mask.sum(dim=1))
        return outputs.logits[:, -1].repeat_interleave(self._beams, dim=0)

    def _make(self, own: KeysValues, cross: KeysValues | None, outputs: Any) -> None:
        """The memory for batches of the shape of the first one."""
        device, rows = own[0][0].device, own[0][0].shape[0] * self._beams
        # kernels of attention want masks in eights
        room = self._room + -(own[0][0].shape[2] + self._room) % 8
        self._cache = StaticCache(own, cross, beams=self._beams, room=room, dtype=self._dtype)
        self._columns = self._cache.columns
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._places = torch.arange(self._columns, device=device)
        # of the decoder's prompt, which columns count
        self._read = (self._places < self._cache.prompt).expand(rows, -1).clone()
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        if self._both:
            hidden = outputs.encoder_last_hidden_state
            self._encoded = hidden.new_empty(rows, *hidden.shape[1:])
            seen = torch.zeros(rows, 1, 1, hidden.shape[1], dtype=torch.bool, device=device)
            self._encoder_mask = self._as_mask(seen)

    def columns_for(self, tokens: int, step: int) -> int:
        """How many columns the model must see to read the last of `tokens`, rounded up to a multiple of `step`."""
        return min(-(-(self._cache.prompt + tokens) // step) * step, self._columns)

    def next(self, columns: int) -> torch.Tensor:
        """Logits after one more token of every row, ``(rows, vocabulary)``; the model sees the first `columns`."""
        self._cache.show(columns)
        self._cache.column.copy_(self._written + (self._cache.prompt - 1))
        places = self._places[:columns]
        seen = self._read[:, :columns] | ((places >= self._cache.prompt) & (places <= self._cache.column))
        mask = self._as_mask(seen[:, None, None])
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
        logits: torch.Tensor = self._model(**inputs).logits
        return logits[:, -1]

    def follow(self, tokens: torch.Tensor, rows: torch.Tensor | None, columns: int) -> None:
        """Row `i` reads ``tokens[i]`` next, after what row ``rows[i]`` has read in the first `columns`."""
        self._tokens.copy_(tokens[:, None])
        if rows is not None:
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
