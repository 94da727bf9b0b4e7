"""Token ids of a split, held in memory, and the padded batches made from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dora_cli.data.examples import Examples
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_CHUNK = 4096


@dataclass(frozen=True)
class EncodedSplit:
    """The token ids of every example, one after another in flat arrays.

    Attributes:
        input_ids: int32 ``(total tokens,)``.
        offsets: int64 ``(N + 1,)``: example `i` owns ``input_ids[offsets[i]:offsets[i + 1]]``.
        token_type_ids: int32 like `input_ids`; None for models that take none.
        labels: int64 ``(N,)``, float64 for a regression; None where the data has no labels.
        max_length: no example is longer.
        pad_token_id: fills `input_ids` on the right.
        pad_token_type_id: fills `token_type_ids`.
    """

    input_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int32] | None
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64] | None
    max_length: int
    pad_token_id: int
    pad_token_type_id: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, special ones included, ``(N,)``."""
        return np.diff(self.offsets)

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """Loss units of each example, ``(N,)``: what the loss of a group of batches is divided by. Here each example is one."""
        return np.ones(len(self), dtype=np.int64)

    def collate(self, indices: Sequence[int] | npt.NDArray[np.integer], pad_multiple: int = 8) -> dict[str, Tensor]:
        """A padded batch.

        Args:
            indices: which examples, at least one, in the order of the batch's rows.
            pad_multiple: the width is the longest example's length rounded up to a multiple of this, but at most `max_length`.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 ``(B, width)``; ``token_type_ids`` likewise for models that take them; ``labels``
            ``(B,)``, int64, fp32 for a regression, where the data has labels. Padding is on the right.
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        assert rows.ndim == 1
        assert len(rows), "a batch has at least one example"
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        longest = int(lengths.max())
        width = max(longest, min(-(-longest // pad_multiple) * pad_multiple, self.max_length))
        steps = np.arange(width)
        mask = steps < lengths[:, None]
        # Both sides run through the rows in order, so the k-th true place of the mask takes the k-th gathered token.
        places = (starts[:, None] + steps)[mask]

        def padded(flat: npt.NDArray[np.int32], fill: int) -> Tensor:
            out = np.full(mask.shape, fill, dtype=np.int64)
            out[mask] = flat[places]
            return torch.from_numpy(out)

        batch = {"input_ids": padded(self.input_ids, self.pad_token_id), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if self.token_type_ids is not None:
            batch["token_type_ids"] = padded(self.token_type_ids, self.pad_token_type_id)
        if self.labels is not None:
            labels = self.labels[rows]
            batch["labels"] = torch.from_numpy(labels.astype(np.float32) if labels.dtype == np.float64 else labels)
        return batch


def encode(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedSplit:
    """Token ids of every example, special tokens included.

    Texts that are too long are cut, pairs at the end of the longer text first.

    Args:
        examples: the texts.
        tokenizer: the base model's; it must have a padding token.
        max_length: tokens per example at most, special ones included.

    Raises:
        DataError: `max_length` leaves no room for text or is above what the model takes, or an example has no tokens.
    """
    assert tokenizer.pad_token_id is not None, "the models room gives every tokenizer a padding token"
    pair = len(examples.texts) == 2
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    least = special + len(examples.texts)
    if max_length < least:
        raise DataError(
            f"data.max_length: {max_length} is below {least}, the {special} special tokens of the tokenizer and one for each text; "
            f"raise it to at least {least}"
        )
    with_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[npt.NDArray[np.int32]] = []
    types: list[npt.NDArray[np.int32]] = []
    lengths: list[int] = []
    for start in range(0, len(examples), _CHUNK):
        # In chunks, because the tokenizer's lists of Python integers take many times the room of the arrays.
        part = tokenizer(
            *(column[start : start + _CHUNK] for column in examples.texts),
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=with_types,
            split_special_tokens=True,  # a text that spells a special token ("</s>") is text, and BART counts the real ones
        )
        rows = part["input_ids"]
        lengths.extend(map(len, rows))
        ids.append(_flat(rows))
        if with_types:
            types.append(_flat(part["token_type_ids"]))
    _check_lengths(lengths, max_length, tokenizer.model_max_length)
    return EncodedSplit(
        input_ids=np.concatenate(ids),
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
        token_type_ids=np.concatenate(types) if with_types else None,
        labels=_labels(examples),
        max_length=max_length,
        pad_token_id=int(tokenizer.pad_token_id),
        pad_token_type_id=int(getattr(tokenizer, "pad_token_type_id", 0)),
    )


def _labels(examples: Examples) -> npt.NDArray[np.int64] | npt.NDArray[np.float64] | None:
    if examples.labels is None:
        return None
    if any(isinstance(label, float) for label in examples.labels):
        return np.array(examples.labels, dtype=np.float64)
    return np.array(examples.labels, dtype=np.int64)


def _flat(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=sum(map(len, rows)))


def _check_lengths(lengths: Sequence[int], max_length: int, model_max_length: int) -> None:
    for position, length in enumerate(lengths):
        if not length:
            raise DataError(f"example {position + 1}: its text gives no tokens; fill it in or remove the row")
    longest = max(lengths)
    if longest > model_max_length:
        raise DataError(
            f"data.max_length: {max_length} is above {model_max_length}, the longest input of the model, and the data has an example of "
            f"{longest} tokens; lower it to {model_max_length}"
        )
