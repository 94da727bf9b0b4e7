"""Which rows of a group belong to which projection, where ranks may differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch


class Layout:
    """Two ways to hold something of every component of `M` projections: row by row, ``(R, ...)``, as `Components` does,
    and stacked, ``(M, r, ...)`` with `r` the largest rank and zeros where a projection has fewer.

    Neither way waits for the device. Where all ranks are equal, one is a view of the other.

    Args:
        ranks: of the projections, in the order of their rows.
        device: where what is held is.

    Attributes:
        firsts: the first row of each, and `R`, int32 ``(M + 1,)``.
    """

    def __init__(self, ranks: Sequence[int], device: torch.device) -> None:
        self.ranks = tuple(ranks)
        self.width = max(ranks)
        self._even = len(set(ranks)) == 1
        self.firsts = torch.tensor([0, *accumulate(ranks)], dtype=torch.int32, device=device)
        if not self._even:
            self._places, self._back = self._indices(device)

    def _indices(self, device: torch.device) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """The row of every place in a stack of one and of two tensors, one below the other, and one past the last where
        there is none; and the place of every row. All are made here, since a graph may be captured later.
        """
        total = sum(self.ranks)
        places: dict[int, list[list[int]]] = {1: [], 2: []}
        back: list[int] = []
        for number, rank in enumerate(self.ranks):
            first = len(back)
            for several, found in places.items():
                nowhere = [several * total] * (self.width - rank)
                starts = [first + part * total for part in range(several)]
                found.append([place for start in starts for place in (*range(start, start + rank), *nowhere)])
            back += [number * self.width + i for i in range(rank)]
        tensors = {several: torch.tensor(found, device=device) for several, found in places.items()}
        return tensors, torch.tensor(back, device=device)

    def stacked(self, *several: torch.Tensor) -> torch.Tensor:
        """``(R, ...) -> (M, r, ...)``; of two such tensors ``(M, 2 r, ...)``, a projection's parts one after the
        other.
        """
        first = several[0]
        if self._even:
            views = [rows.view(len(self.ranks), self.width, *first.shape[1:]) for rows in several]
            return views[0] if len(views) == 1 else torch.cat(views, 1)
        return torch.cat([*several, first.new_zeros(1, *first.shape[1:])])[self._places[len(several)]]

    def rows(self, stacked: torch.Tensor) -> torch.Tensor:
        """``(M, r, ...) -> (R, ...)``."""
        flat = stacked.flatten(0, 1)
        return flat if self._even else flat[self._back]
