"""Which rows of a group belong to which projection, where ranks may differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Layout:
    """Two ways to hold something of every component of `M` projections: row by row, ``(R, ...)``, as `Components` does,
    and stacked, ``(M, r, ...)`` with `r` the largest rank and zeros where a projection has fewer.

    Neither way waits for the device. Where all ranks are equal, one is a view of the other.

    Args:
        ranks: of the projections, in the order of their rows.
        device: where what is held is.
    """

    def __init__(self, ranks: Sequence[int], device: torch.device) -> None:
        self.ranks = tuple(ranks)
        self.width = max(ranks)
        self._even = len(set(ranks)) == 1
        if not self._even:
            self._places, self._back = self._indices(device)

    def _indices(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The row of every place in a stack, one past the last where there is none; and the place of every row."""
        total = sum(self.ranks)
        places: list[list[int]] = []
        back: list[int] = []
        for number, rank in enumerate(self.ranks):
            first = len(back)
            places.append([first + i if i < rank else total for i in range(self.width)])
            back += [number * self.width + i for i in range(rank)]
        return torch.tensor(places, device=device), torch.tensor(back, device=device)

    def stacked(self, rows: torch.Tensor) -> torch.Tensor:
        """``(R, ...) -> (M, r, ...)``."""
        if self._even:
            return rows.view(len(self.ranks), self.width, *rows.shape[1:])
        padded = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
        return padded[self._places]

    def rows(self, stacked: torch.Tensor) -> torch.Tensor:
        """``(M, r, ...) -> (R, ...)``."""
        flat = stacked.flatten(0, 1)
        return flat if self._even else flat[self._back]
