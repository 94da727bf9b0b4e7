"""A factor of an adapter as the products of a pass take it."""

from __future__ import annotations

import torch


class Factor:
    """A factor of one projection as a pass has prepared it, so that no call does it again.

    Args:
        ready: ``(P, d)`` in the precision of the arithmetic: the rows times `scale`, then rows of zeros.
        rank: how many rows there are.
        scale: of the dropout that `down` is expected to be called with.
        plain: ``(r, d)`` without the scale, in any precision, where there is one.

    Attributes:
        rows: ``(r, d)``, scaled.
        across: the transpose of `ready`.
    """

    __slots__ = ("across", "plain", "rank", "ready", "rows", "scale")

    def __init__(
        self, ready: torch.Tensor, rank: int, *, scale: float = 1.0, plain: torch.Tensor | None = None
    ) -> None:
        self.ready, self.rank, self.scale = ready, rank, scale
        self.rows, self.across = ready[:rank], ready.T
        self.plain = self.rows if plain is None else plain

    def scaled(self, scale: float) -> torch.Tensor:
        """The rows times `scale`, ``(r, d)``."""
        if scale == self.scale:
            return self.rows
        plain = self.plain.to(self.ready.dtype)
        return plain if scale == 1 else plain * scale

    def part(self, rows: slice) -> Factor:
        """Some rows of a factor that has no scale."""
        found = self.rows[rows]
        return Factor(found, len(found))
