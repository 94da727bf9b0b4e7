"""A batch of texts in one row, one after the other, without padding between them.

The row's length is rounded up to one of few totals, so that work which is captured by shape is captured a few times
only. What fills it up is a text of its own, which has no labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dora_cli.data.batches import Indices
from dora_cli.data.cuts import Cuts, cut_batches
from dora_cli.data.encoding import Encoded
from dora_cli.data.padding import Lengths, TokenCount
from dora_cli.data.pairs import IGNORED, EncodedPairs

if TYPE_CHECKING:
    from torch import Tensor

TOTALS = 10
"""How many lengths the rows of a long run have, about: each is captured by itself."""

CAPTURES = 48
"""Steps that take as long as one more length takes to be captured, eager steps included, before the final ranks and
after: 0.9 s where a captured step takes 19 ms, as of SmolLM2-135M on an H200 (docs/results/whole-runs.md).
"""

GRAIN = 16
"""Tokens that lengths are multiples of at the least: kernels of matrix products like their sizes so."""

BOUNDARIES = "cu_seq_lens_q"
"""Where the texts of a row begin, as transformers calls it: int32 ``(texts + 2,)``, from 0 to the row's length. The
last text is what fills the row up, and may be empty.
"""


@dataclass(frozen=True)
class Packing:
    """How texts are put into rows.

    Attributes:
        step: what the length of a row is rounded up to a multiple of.
        longest: tokens of the longest text that a row holds, at least.
    """

    step: int
    longest: int

    @classmethod
    def of(cls, lengths: Lengths, batches: Iterable[Indices], passes: int) -> Packing:
        """How a run does it that begins with `batches`: in rows of at most `TOTALS` + 1 lengths, smaller batches apart.

        Of `n` lengths between totals that are `spread` apart, half a step of ``spread / n`` is padding, in each of the
        passes, and each costs `CAPTURES` of them: the least of both together is had by ``n = sqrt(passes * spread / (2
        * mean * CAPTURES))``.

        Args:
            lengths: tokens that are read of each example, ``(N,)``.
            batches: at least one.
            passes: of the whole run.
        """
        found = [(len(rows), int(lengths[rows].sum())) for rows in batches if len(rows)]
        largest = max(size for size, _ in found)
        totals = [tokens for size, tokens in found if size == largest]
        spread, mean = max(totals) - min(totals), sum(totals) / len(totals)
        few = min(TOTALS, max(1, round((passes * spread / (2 * mean * CAPTURES)) ** 0.5)))
        step = max(-(-spread // (few * GRAIN)) * GRAIN, GRAIN)
        return cls(step, max(int(lengths.max()), step))

    def total(self, tokens: int) -> int:
        """The length of a row that holds so many tokens."""
        return -(-tokens // self.step) * self.step

    def count(self, lengths: Lengths, batches: Iterable[Indices]) -> TokenCount:
        """The tokens of `batches`, a row each."""
        tokens = [int(lengths[rows].sum()) for rows in batches if len(rows)]
        return TokenCount(sum(tokens), sum(map(self.total, tokens)))

    def collate(self, split: EncodedPairs, indices: Sequence[int] | npt.NDArray[np.integer]) -> dict[str, Tensor]:
        """A batch of one row to train on.

        Args:
            split: of a decoder-only model.
            indices: which examples, at least one, in the order of the row.

        Returns:
            int64 ``(1, T)``: ``input_ids``; ``attention_mask``, 0 where the row is filled up; ``position_ids``, which
            begin anew at every text; ``labels``, aligned as those of `EncodedPairs.collate`: no text predicts the
            next. And `BOUNDARIES`.
        """
        assert not split.layout.encoder_decoder
        padded = split.collate(indices, 1)
        return in_one_row(padded, self.total(int(padded["attention_mask"].sum())), split.layout.pad)


def in_one_row(padded: Mapping[str, Tensor], total: int, pad: int) -> dict[str, Tensor]:
    """The texts of a padded batch in a row of `total` tokens, at least as many as there are; see `Packing.collate`.

    Args:
        padded: ``input_ids``, ``attention_mask`` and ``labels``, ``(B, T)`` on the CPU.
        pad: the token that fills the row up.
    """
    import torch

    real = padded["attention_mask"].bool()
    ends = real.sum(1).cumsum(0)
    rest = total - int(ends[-1])
    places = torch.arange(real.shape[1]).expand_as(real)

    def row(values: Tensor, fill: Tensor) -> Tensor:
        return torch.cat([values[real], fill])[None]

    return {
        "input_ids": row(padded["input_ids"], torch.full((rest,), pad)),
        "attention_mask": row(padded["attention_mask"], torch.zeros(rest, dtype=torch.int64)),
        # no further than a model's own positions reach
        "position_ids": row(places, torch.arange(rest) % int(real.sum(1).max())),
        "labels": row(padded["labels"], torch.full((rest,), IGNORED)),
        BOUNDARIES: torch.cat([ends.new_zeros(1), ends, ends.new_tensor([total])]).int(),
    }


def training_batches(
    split: Encoded, batches: Iterable[Indices], cuts: Cuts, packing: Packing | None
) -> Iterator[dict[str, Tensor]]:
    """What a model is trained on for `batches`, one after the other: each in one row, where there is a `packing`, else
    padded, and cut into parts by `cuts`.
    """
    if packing is None:
        yield from (split.collate(rows) for rows in cut_batches(split, batches, cuts))
        return
    assert isinstance(split, EncodedPairs), "what a model writes has pairs to learn from"
    yield from (packing.collate(split, rows) for rows in batches)
