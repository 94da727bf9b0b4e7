"""Rows of different lengths, one after another in a flat array: how token ids are held in memory and padded into
batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def padded_width(longest: int, multiple: int, max_length: int) -> int:
    """Columns of a batch: its longest row, rounded up to one of few widths, but at most to `max_length`.

    Widths are multiples of `multiple` up to eight of it, of twice that up to sixteen, and so on: four to eight for
    every doubling, so that there are few shapes of batches and a twelfth of the columns is padding on average. With 1,
    nothing is rounded.
    """
    step = multiple
    while multiple > 1 and longest > 8 * step:
        step *= 2
    return max(longest, min(-(-longest // step) * step, max_length))


def padded_widths(longest: Integers, multiple: int, max_length: int) -> Integers:
    """`padded_width` of each entry, in the same shape."""
    different, which = np.unique(longest, return_inverse=True)
    widths = np.array([padded_width(int(length), multiple, max_length) for length in different], dtype=np.int64)
    return widths[which].reshape(longest.shape)


def row_numbers(indices: Sequence[int] | npt.NDArray[np.integer]) -> Integers:
    """The rows of a batch as an array; at least one."""
    rows = np.asarray(indices, dtype=np.int64)
    assert rows.ndim == 1
    assert len(rows), "a batch has at least one example"
    return rows


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of integers.

    Attributes:
        values: int32 ``(total,)``.
        offsets: int64 ``(N + 1,)``: row `i` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: npt.NDArray[np.int32]
    offsets: Integers

    @classmethod
    def of(cls, values: npt.NDArray[np.int32], lengths: Sequence[int] | Integers) -> Ragged:
        """The rows that `values` is made up of, by their lengths."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        assert offsets[-1] == len(values)
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Integers:
        """Length of each row, ``(N,)``."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: Integers) -> Integers:
        """Length of some rows, ``(B,)``."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def take(self, rows: Integers) -> Ragged:
        """Some rows, in the order of `rows`; one may be taken more than once."""
        lengths = self.lengths_of(rows)
        taken = Ragged.of(np.empty(int(lengths.sum()), dtype=np.int32), lengths)
        taken.values[:] = self.values[
            np.arange(len(taken.values)) + np.repeat(self.offsets[rows] - taken.offsets[:-1], lengths)
        ]
        return taken

    def surrounded(self, before: Sequence[int], after: Sequence[int]) -> Ragged:
        """Every row with the same values put before and after it."""
        grown = self.lengths + (len(before) + len(after))
        out = Ragged.of(np.empty(len(self.values) + (len(before) + len(after)) * len(self), dtype=np.int32), grown)
        starts, ends = out.offsets[:-1], out.offsets[1:]
        for column, value in enumerate(before):
            out.values[starts + column] = value
        for column, value in enumerate(after):
            out.values[ends - len(after) + column] = value
        out.values[np.arange(len(self.values)) + np.repeat(starts + len(before) - self.offsets[:-1], self.lengths)] = (
            self.values
        )
        return out

    def cut(self, limits: Integers) -> Ragged:
        """The first ``limits[i]`` values of every row `i`, ``(N,)``; shorter rows stay as they are."""
        lengths = self.lengths
        column = np.arange(len(self.values)) - np.repeat(self.offsets[:-1], lengths)
        return Ragged.of(self.values[column < np.repeat(limits, lengths)], np.minimum(lengths, limits))

    def write(
        self, rows: Integers, out: Integers, at: Integers | int = 0, *, leave_out: int = 0
    ) -> npt.NDArray[np.bool_]:
        """Writes some rows into the rows of `out`.

        Args:
            rows: which, ``(B,)``.
            out: ``(B, width)``, wide enough.
            at: column where each begins, ``(B,)`` or one for all.
            leave_out: how many values at the end of each row are not written.

        Returns:
            ``(B, width)``, true where something was written.
        """
        column = np.arange(out.shape[1]) - np.broadcast_to(at, rows.shape)[:, None]
        written = (column >= 0) & (column < self.lengths_of(rows)[:, None] - leave_out)
        # Both sides run through the rows in order, so the k-th true place takes the k-th gathered value.
        out[written] = self.values[(self.offsets[rows][:, None] + column)[written]]
        return written

    def padded(
        self, rows: Integers, fill: int, width: int, *, left: bool = False
    ) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """Some rows filled up to `width`, int64 ``(B, width)``, on the right or on the left; and where they are not
        filled.
        """
        out = np.full((len(rows), width), fill, dtype=np.int64)
        return out, self.write(rows, out, width - self.lengths_of(rows) if left else 0)
