"""How much of what a model computes is padding: known from the lengths of rows alone, before a batch is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dora_cli.data.ragged import padded_widths

PAD_MULTIPLE = 8
"""Batches are as wide as their longest row, rounded up to one of the widths that `padded_width` makes of this."""


def pad_multiple(device: str) -> int:
    """What widths are rounded up to on a device of this type: few widths are worth their padding where work is captured
    by shape, and on the CPU no column more than the longest row needs.
    """
    return 1 if device == "cpu" else PAD_MULTIPLE


def recorded_multiple(environment: Mapping[str, Any]) -> int:
    """What a run wrote into environment.json; older runs wrote nothing, and rounded on every device."""
    multiple = environment.get("pad_multiple")
    return PAD_MULTIPLE if multiple is None else int(multiple)


Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenCount:
    """Tokens of batches: those of their rows, and all that the model computes, padding included."""

    real: int = 0
    computed: int = 0

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(self.real + other.real, self.computed + other.computed)

    @property
    def share(self) -> float | None:
        """What part of the computed tokens is real; None where there are none."""
        return self.real / self.computed if self.computed else None


def count_tokens(
    sides: Sequence[Lengths],
    batches: Iterable[Sequence[int] | npt.NDArray[np.integer]],
    *,
    max_length: int,
    multiple: int = PAD_MULTIPLE,
) -> TokenCount:
    """The tokens of `batches`, each of the rows it names.

    Args:
        sides: tokens of each row, ``(N,)``, in each of the inputs that are padded by themselves: one, or an
            encoder's and a decoder's.
        max_length: no batch is wider.
        multiple: what widths are rounded up to, as `padded_width` says.
    """
    rows = [np.asarray(batch, dtype=np.int64) for batch in batches if len(batch)]
    if not rows:
        return TokenCount()
    sizes = np.array([len(batch) for batch in rows])
    starts, all_rows = np.cumsum(sizes) - sizes, np.concatenate(rows)
    count = TokenCount()
    for side in sides:
        lengths = side[all_rows]
        widths = padded_widths(np.maximum.reduceat(lengths, starts), multiple, max_length)
        count += TokenCount(int(lengths.sum()), int((widths * sizes).sum()))
    return count
