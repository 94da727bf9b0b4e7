"""The products of `dora_cli.methods.low_rank.arithmetic.kernels` for several projections of the same input at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from dora_cli.methods.low_rank.arithmetic.factor import Factor

MANY = 3
"""So many projections are computed as one at most: query, key and value."""


class Wide(NamedTuple):
    """Rows of several projections in one memory, ``(N, width)`` each.

    Attributes:
        memory: all of it, in one dimension.
        rows: `N`.
        starts: where each projection's first row begins.
        strides: from one of its rows to the next.
        widths: of its rows.
    """

    memory: torch.Tensor
    rows: int
    starts: tuple[int, ...]
    strides: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def same(cls, rows: torch.Tensor, count: int) -> Wide:
        """`rows`, ``(N, d)``, for each of `count` projections."""
        width = rows.shape[1]
        return cls(rows.view(-1), len(rows), (0,) * count, (width,) * count, (width,) * count)

    @classmethod
    def beside(cls, memory: torch.Tensor, rows: int, widths: Sequence[int]) -> Wide:
        """A row of each in one row of `memory`."""
        total = sum(widths)
        return cls(memory, rows, _before(widths), (total,) * len(widths), tuple(widths))

    @classmethod
    def after(cls, memory: torch.Tensor, rows: int, widths: Sequence[int]) -> Wide:
        """All rows of the first, then all of the second."""
        return cls(memory, rows, tuple(rows * start for start in _before(widths)), tuple(widths), tuple(widths))

    def part(self, index: int) -> torch.Tensor:
        """One projection's, a view ``(N, width)``."""
        start = self.memory.storage_offset() + self.starts[index]
        return self.memory.as_strided((self.rows, self.widths[index]), (self.strides[index], 1), start)


def _before(widths: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(widths[:index]) for index in range(len(widths)))


class ManyKernels(Protocol):
    """The products of `Kernels` for two to `MANY` projections of the same input in one call: without chunks, nothing is
    tied, and dropouts are of one probability; that of one without a component is None.
    """

    def down(self, x: Wide, factors: Sequence[Factor], drops: Sequence[object]) -> Wide: ...

    def up(self, base: Wide, u: Wide, factors: Sequence[Factor], out: Wide) -> None:
        """Writes each sum to its part of `out`, which lies as `base` does or is it; nothing drops out."""

    def up_sum(
        self, base: torch.Tensor, u: Wide, factors: Sequence[Factor], drops: Sequence[object], out: torch.Tensor
    ) -> None:
        """Writes the sum of `base`, ``(N, d)``, and of all updates to `out`, which is `base` or another tensor."""

    def outer(self, totals: Sequence[torch.Tensor | None], u: Wide, x: Wide, drops: Sequence[object]) -> None:
        """Adds to the `totals` that there are."""
