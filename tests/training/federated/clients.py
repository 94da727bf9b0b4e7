"""Factors of several clients for the tests of the server, and what it wants of them, computed with whole matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch

Shapes = tuple[int, int, int, int]
"""Clients, rank, `d_in` and `d_out`."""


class Clients(NamedTuple):
    """`A` ``(K, r, d_in)``, `B` ``(K, d_out, r)`` and the weights ``(K,)``, in float64."""

    A: torch.Tensor
    B: torch.Tensor
    weights: torch.Tensor

    @property
    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.einsum("k,krd->rd", self.weights, self.A), torch.einsum("k,kdr->dr", self.weights, self.B)

    @property
    def products(self) -> torch.Tensor:
        """The mean of the products, ``(d_out, d_in)``."""
        return torch.einsum("k,kor,kri->oi", self.weights, self.B, self.A)


def drawn(seed: int, shapes: Shapes = (3, 2, 4, 5), apart: float = 1.0) -> Clients:
    """Clients whose factors differ by about `apart` times what they have in common (all of it where that is 1)."""
    clients, rank, d_in, d_out = shapes
    generator = torch.Generator().manual_seed(seed)

    def factors(*shape: int) -> torch.Tensor:
        common = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        own = torch.randn(clients, *shape, generator=generator, dtype=torch.float64)
        return own if apart == 1 else common + apart * own

    A, B = factors(rank, d_in), factors(d_out, rank)
    weights = torch.rand(clients, generator=generator, dtype=torch.float64) + 0.1
    return Clients(A, B, weights / weights.sum())
