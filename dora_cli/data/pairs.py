"""Token ids of sources and targets, held in memory, and the batches to train on and to generate from.

Labels are aligned with the logits: the label at position `t` is the token that the logits at position `t` predict. Only
target tokens, the end token included, have labels; the loss of a group of batches is divided by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dora_cli.data.examples import Examples
from dora_cli.data.layout import PairLayout
from dora_cli.data.padding import PAD_MULTIPLE
from dora_cli.data.ragged import Integers, Ragged, padded_width, row_numbers
from dora_cli.data.tokens import check_model_limit, tokenise
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a position whose prediction does not count."""


@dataclass(frozen=True)
class EncodedPairs:
    """The token ids of every source and its target.

    Attributes:
        sources: a row per example, with what the layout puts around a source.
        targets: a row per example, the end token included unless it was cut.
        cut: how many targets were cut at `max_length`; these have no end token.
        layout: the special tokens.
        max_length: no example is longer, and no batch wider; an encoder-decoder's source and target count apart.
        pad_multiple: what the width of a batch is rounded up to, as `padded_width` says.
    """

    sources: Ragged
    targets: Ragged
    cut: int
    layout: PairLayout
    max_length: int
    pad_multiple: int = PAD_MULTIPLE

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, source and target, ``(N,)``."""
        return self.sources.lengths + self.targets.lengths

    def padded_to(self, multiple: int) -> EncodedPairs:
        """The same examples with another `pad_multiple`."""
        return replace(self, pad_multiple=multiple)

    @property
    def sides(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Tokens that are read of each example, ``(N,)``: of a decoder-only model in one piece, of an encoder-decoder
        those of the encoder and of the decoder. The last token of a target is only ever a label.
        """
        if self.layout.encoder_decoder:
            return self.sources.lengths, self.targets.lengths + (len(self.layout.start) - 1)
        return (self.lengths - 1,)

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """Loss units of each example, ``(N,)``: its target tokens."""
        return self.targets.lengths

    @property
    def labels(self) -> None:
        """None: the targets stand in their place."""
        return None

    def collate(
        self, indices: Sequence[int] | npt.NDArray[np.integer], pad_multiple: int | None = None
    ) -> dict[str, Tensor]:
        """A padded batch to train on.

        Args:
            indices: which examples, at least one, in the order of the batch's rows.
            pad_multiple: in place of the split's own; widths are those of the longest row rounded up to one of its
                widths, but at most to `max_length`.

        Returns:
            int64 tensors, padded on the right. Decoder-only: ``input_ids``, ``attention_mask`` and ``labels``, ``(B,
            T)``. Encoder-decoder: ``input_ids`` and ``attention_mask`` ``(B, S)``, ``decoder_input_ids`` and ``labels``
            ``(B, T)``. ``labels`` are IGNORED on prompt and padding. The last token of a target is only ever a label.
        """
        rows = row_numbers(indices)
        pad_multiple = self.pad_multiple if pad_multiple is None else pad_multiple
        if self.layout.encoder_decoder:
            read, written = self._decoder(rows, np.full(len(rows), len(self.layout.start)), pad_multiple)
            read[:, : len(self.layout.start)] = self.layout.start
            return _batch(
                *_padded_sources(self.sources, rows, self, pad_multiple), decoder_input_ids=read, labels=written
            )
        prompts = self.sources.lengths_of(rows)
        read, written = self._decoder(rows, prompts, pad_multiple)
        self.sources.write(rows, read)
        lengths = prompts + self.targets.lengths_of(rows) - 1
        return _batch(read, np.arange(read.shape[1]) < lengths[:, None], labels=written)

    def _decoder(self, rows: Integers, prompts: Integers, pad_multiple: int) -> tuple[Integers, Integers]:
        """What the decoder reads, with room for prompts of the given lengths, and its labels; ``(B, T)`` both."""
        longest = int((prompts + self.targets.lengths_of(rows)).max()) - 1
        shape = len(rows), padded_width(longest, pad_multiple, self.max_length)
        read, written = np.full(shape, self.layout.pad, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
        self.targets.write(rows, read, prompts, leave_out=1)
        # The logits at the prompt's last token predict the target's first.
        self.targets.write(rows, written, prompts - 1)
        return read, written


@dataclass(frozen=True)
class EncodedSources:
    """The token ids of every source, to generate from.

    Attributes:
        sources: a row each, with what the layout puts around a source.
        layout: the special tokens.
        max_length: no source is longer, and no batch wider.
    """

    sources: Ragged
    layout: PairLayout
    max_length: int

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each source, ``(N,)``."""
        return self.sources.lengths

    def collate(self, indices: Sequence[int] | npt.NDArray[np.integer], pad_multiple: int = 1) -> dict[str, Tensor]:
        """A padded batch to generate from.

        Args:
            indices: which sources, at least one, in the order of the batch's rows.
            pad_multiple: the width is that of the longest rounded up to a multiple of this, but at most `max_length`.

        Returns:
            int64 ``input_ids`` and ``attention_mask`` ``(B, S)``: padded on the left for a decoder-only model, which
            goes on where they end; on the right for an encoder-decoder, with ``decoder_input_ids`` ``(B, start
            tokens)`` beside them.
        """
        rows = row_numbers(indices)
        if not self.layout.encoder_decoder:
            return _batch(*_padded_sources(self.sources, rows, self, pad_multiple, left=True))
        start = np.tile(np.array(self.layout.start, dtype=np.int64), (len(rows), 1))
        return _batch(*_padded_sources(self.sources, rows, self, pad_multiple), decoder_input_ids=start)


def encode_pairs(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, layout: PairLayout
) -> EncodedPairs:
    """Token ids of every source and its target.

    A target that is too long is cut, and counted; a source never is, since its end says as much as its beginning.

    Args:
        examples: sources and targets.
        tokenizer: the base model's.
        max_length: tokens at most, special ones included: of source and target together, or of each for an
            encoder-decoder.
        layout: the special tokens, from `pair_layout`.

    Raises:
        DataError: a source leaves no room for a target token, or an example is longer than the model takes.
    """
    assert len(examples.texts) == 2, "sources and targets"
    texts, references = examples.texts
    sources = _sources(texts, tokenizer, max_length, layout)
    led = [layout.lead + reference for reference in references] if layout.lead else references
    whole = tokenise(tokenizer, led, add_special_tokens=False)["input_ids"].surrounded((), (layout.end,))
    # What the decoder reads before the target takes up room too, but for the one token whose logits are the target's
    # first.
    room = (
        np.full(len(sources), max_length - len(layout.start) + 1)
        if layout.encoder_decoder
        else max_length - sources.lengths
    )
    targets = whole.cut(room)
    prompts = len(layout.start) if layout.encoder_decoder else sources.lengths
    widest = check_model_limit(int((prompts + targets.lengths - 1).max()), max_length, tokenizer)
    return EncodedPairs(sources, targets, int((targets.lengths < whole.lengths).sum()), layout, widest)


def pair_lengths(examples: Examples, tokenizer: PreTrainedTokenizerBase, layout: PairLayout) -> npt.NDArray[np.int64]:
    """Tokens of each source and its target before anything is cut, ``(N,)``; of an encoder-decoder those of the longer
    one. Where there are no targets, those of the sources.
    """
    sources = tokenise(tokenizer, examples.texts[0], add_special_tokens=False)["input_ids"].lengths
    sources = sources + (len(layout.before) + len(layout.separator))
    if len(examples.texts) == 1:
        return sources
    texts = [layout.lead + text for text in examples.texts[1]]
    targets = tokenise(tokenizer, texts, add_special_tokens=False)["input_ids"].lengths + 1
    if layout.encoder_decoder:
        return np.maximum(sources, targets + len(layout.start) - 1)
    return sources + targets


def encode_sources(
    sources: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, layout: PairLayout
) -> EncodedSources:
    """Token ids of every source, to generate from; as `encode_pairs` makes them.

    Raises:
        DataError: a source is longer than `max_length` or than the model takes.
    """
    widest = min(max_length, tokenizer.model_max_length)
    return EncodedSources(_sources(sources, tokenizer, max_length, layout), layout, widest)


def _sources(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, layout: PairLayout) -> Ragged:
    # A source occurs once for each of its references, but is worth tokenising once only.
    different = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    once = tokenise(tokenizer, list(different), add_special_tokens=False)["input_ids"].surrounded(
        layout.before, layout.separator
    )
    sources = once.take(np.array([different[text] for text in texts], dtype=np.int64))
    needs = np.maximum(sources.lengths, len(layout.start)) if layout.encoder_decoder else sources.lengths + 1
    if (needs > max_length).any():
        first = int((needs > max_length).argmax())
        what = "its source needs" if layout.encoder_decoder else "its source and one token of its reference need"
        raise DataError(
            f"example {first + 1} ({_start(texts[first])}): {what} {int(needs[first])} tokens, but data.max_length is "
            f"{max_length}; raise it to at least {int(needs.max())}, what the longest needs, or shorten the source"
        )
    check_model_limit(int(sources.lengths.max()), max_length, tokenizer)
    return sources


def _start(text: str, characters: int = 60) -> str:
    return repr(text) if len(text) <= characters else repr(text[:characters] + "...")


def _padded_sources(
    sources: Ragged, rows: Integers, owner: EncodedPairs | EncodedSources, pad_multiple: int, *, left: bool = False
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    width = padded_width(int(sources.lengths_of(rows).max()), pad_multiple, owner.max_length)
    return sources.padded(rows, owner.layout.pad, width, left=left)


def _batch(input_ids: Integers, mask: npt.NDArray[np.bool_], **more: Integers) -> dict[str, Tensor]:
    import torch

    arrays = {"input_ids": input_ids, "attention_mask": mask.astype(np.int64), **more}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
