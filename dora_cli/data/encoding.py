"""Token ids of a split, held in memory, and the padded batches made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from dora_cli.data.examples import Examples
from dora_cli.data.padding import PAD_MULTIPLE
from dora_cli.data.ragged import Ragged, padded_width, row_numbers
from dora_cli.data.tokens import check_model_limit, tokenise
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class Encoded(Protocol):
    """A split as a model reads it, held in memory. Rows need not be examples: a long text may take several."""

    def __len__(self) -> int:
        """How many rows."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, ``(N,)``."""

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """Loss units of each row, ``(N,)``: what the loss of a group of batches is divided by."""

    @property
    def sides(self) -> Sequence[npt.NDArray[np.int64]]:
        """Tokens of each row, ``(N,)``, in each input of the model that is padded by itself."""

    @property
    def max_length(self) -> int:
        """No batch is wider."""

    @property
    def pad_multiple(self) -> int:
        """What the width of a batch is rounded up to, as `padded_width` says."""

    def padded_to(self, multiple: int) -> Encoded:
        """The same rows with another `pad_multiple`."""

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        """One for each row, ``(N,)``; None where the data have none, or references in their place."""

    def collate(
        self, indices: Sequence[int] | npt.NDArray[np.integer], pad_multiple: int | None = None
    ) -> dict[str, Tensor]:
        """A padded batch of some rows. What the model does not read has a name that begins with ``labels``.

        Args:
            indices: which rows, at least one.
            pad_multiple: in place of the split's own.
        """


@dataclass(frozen=True)
class EncodedSplit:
    """The token ids of every example.

    Attributes:
        tokens: a row of ids per example.
        token_types: likewise; None for models that take none.
        labels: int64 ``(N,)``, float64 for a regression; None where the data has no labels.
        max_length: no example is longer, and no batch wider.
        pad_token_id: fills the ids on the right.
        pad_token_type_id: fills the token types.
        pad_multiple: what the width of a batch is rounded up to, as `padded_width` says.
    """

    tokens: Ragged
    token_types: Ragged | None
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64] | None
    max_length: int
    pad_token_id: int
    pad_token_type_id: int = 0
    pad_multiple: int = PAD_MULTIPLE

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, special ones included, ``(N,)``."""
        return self.tokens.lengths

    def padded_to(self, multiple: int) -> EncodedSplit:
        """The same examples with another `pad_multiple`."""
        return replace(self, pad_multiple=multiple)

    @property
    def sides(self) -> tuple[npt.NDArray[np.int64]]:
        """Tokens of each example, ``(N,)``: there is one input."""
        return (self.lengths,)

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """Loss units of each example, ``(N,)``: what the loss of a group of batches is divided by.

        Here each example is one.
        """
        return np.ones(len(self), dtype=np.int64)

    def collate(
        self, indices: Sequence[int] | npt.NDArray[np.integer], pad_multiple: int | None = None
    ) -> dict[str, Tensor]:
        """A padded batch.

        Args:
            indices: which examples, at least one, in the order of the batch's rows.
            pad_multiple: in place of the split's own; the width is the longest example's length rounded up to one of
                its widths, but at most to `max_length`.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 ``(B, width)``; ``token_type_ids`` likewise for models that take
            them; ``labels`` ``(B,)``, int64, fp32 for a regression, where the data has labels. Padding is on the right.
        """
        import torch

        rows = row_numbers(indices)
        multiple = self.pad_multiple if pad_multiple is None else pad_multiple
        width = padded_width(int(self.tokens.lengths_of(rows).max()), multiple, self.max_length)
        input_ids, mask = self.tokens.padded(rows, self.pad_token_id, width)
        batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
        if self.token_types is not None:
            batch["token_type_ids"] = torch.from_numpy(self.token_types.padded(rows, self.pad_token_type_id, width)[0])
        if self.labels is not None:
            labels = self.labels[rows]
            batch["labels"] = torch.from_numpy(labels.astype(np.float32) if labels.dtype == np.float64 else labels)
        return batch


def pair_tokens(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.int64]:
    """Tokens of each example, special ones included, before anything is cut, ``(N,)``."""
    return tokenise(tokenizer, *examples.texts)["input_ids"].lengths


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
            f"data.max_length: {max_length} is below {least}, the {special} special tokens of the tokenizer and one "
            f"for each text; raise it to at least {least}"
        )
    names = [
        name for name in ("input_ids", "token_type_ids") if name == "input_ids" or name in tokenizer.model_input_names
    ]
    found = tokenise(tokenizer, *examples.texts, names=names, truncation=True, max_length=max_length)
    tokens = found["input_ids"]
    if not tokens.lengths.all():
        raise DataError(
            f"example {int(tokens.lengths.argmin()) + 1}: its text gives no tokens; fill it in or remove the row"
        )
    widest = check_model_limit(int(tokens.lengths.max()), max_length, tokenizer)
    return EncodedSplit(
        tokens=tokens,
        token_types=found.get("token_type_ids"),
        labels=_labels(examples),
        max_length=widest,
        pad_token_id=int(tokenizer.pad_token_id),
        pad_token_type_id=int(getattr(tokenizer, "pad_token_type_id", 0)),
    )


def _labels(examples: Examples) -> npt.NDArray[np.int64] | npt.NDArray[np.float64] | None:
    if examples.labels is None:
        return None
    if any(isinstance(label, float) for label in examples.labels):
        return np.array(examples.labels, dtype=np.float64)
    return np.array(examples.labels, dtype=np.int64)
