"""Columns of `B` beside the frozen weights: one product with both gives the gradient of an input and ``dy B``.

The backward pass multiplies the same gradient by a frozen weight and by `B`. Sixteen further columns cost a matrix
product next to nothing on a GPU, where ``dy B`` alone is a launch that reads all of `dy` again. Where weights had to be
copied into the precision of the arithmetic anyway, copies therefore have room for them; weights that need no copy stay
where they are, and nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from dora_cli.methods.low_rank.factor import Factor

STEP = 16
"""Columns are filled up with zeros to so many, as rows of such products are read best."""


class Beside(NamedTuple):
    """One projection's weight and the columns of its `B`.

    Attributes:
        whole: ``(d_out, d_in + more)``, the weight first.
        first: the first of the columns.
        factor: `B`, by rows.
    """

    whole: torch.Tensor
    first: int
    factor: Factor

    @property
    def columns(self) -> torch.Tensor:
        """A view, ``(d_out, r)``."""
        return self.whole[:, self.first : self.first + self.factor.rank]


def room_for(rank: int) -> int:
    """Columns that a rank takes."""
    return -(-rank // STEP) * STEP


class Columns:
    """The columns of several projections, written anew in every pass."""

    def __init__(self) -> None:
        self._known: list[int] = []
        self._write: Callable[[], None] | None = None

    def write(self, there: Sequence[Beside]) -> None:
        """Takes over the present factors.

        Args:
            there: of one type, on one device; where those of the call before stay, nothing is prepared again.
        """
        if not there:
            return
        if there[0].whole.device.type != "cuda":
            for one in there:
                one.columns.copy_(one.factor.rows.T)
            return
        from dora_cli.methods.low_rank.triton_beside import ManyColumns

        present = [one.whole.data_ptr() for one in there]
        if self._write is None or present != self._known:
            self._write = ManyColumns([(one.factor.rows, one.columns) for one in there])
            self._known = present
        self._write()
