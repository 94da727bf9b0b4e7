"""Plain LoRA factors made ready for a file: balanced magnitudes, the layout a reader needs, and zero components where
few distinct ranks are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dora_cli.errors import ExportError
from dora_cli.methods.base import LoraFactors

Factors = Mapping[str, LoraFactors]
"""Factors by the full name of their projection."""

PADDINGS = ("none", "power-of-two", "common")
LAYOUTS = ("patterns", "constant-alpha", "uniform")
"""How ranks and scales of projections are told: each with its own, one alpha for all, or one rank for all."""


def balance(factors: LoraFactors) -> LoraFactors:
    """The same product with ``|a_i| = |b_i|`` for every component.

    A gate near zero or a large scale, folded into one factor, would leave its entries where a half type has few
    numbers; the square root on either side stays away from both ends. A component that adds nothing becomes zero in
    both factors.
    """
    A, B = factors.A.double(), factors.B.double()
    # The norms are taken of rows scaled to at most 1: squares of very small entries would vanish.
    a, b = _norms(A, 1), _norms(B, 0)
    live = (a > 0) & (b > 0)
    ratio = torch.where(live, (b / a).sqrt(), torch.zeros_like(a))
    inverse = torch.where(live, (a / b).sqrt(), torch.zeros_like(a))
    return LoraFactors((A * ratio[:, None]).float(), (B * inverse).float())


def _norms(factor: torch.Tensor, dimension: int) -> torch.Tensor:
    largest = factor.abs().amax(dimension, keepdim=True)
    scaled = factor / torch.where(largest > 0, largest, torch.ones_like(largest))
    return scaled.norm(dim=dimension) * largest.squeeze(dimension)


def padded_rank(rank: int, padding: str, largest: int) -> int:
    """What a projection of `rank` is padded to, where `largest` is the highest rank of all."""
    if padding == "power-of-two":
        return 1 << (rank - 1).bit_length()
    return largest if padding == "common" else rank


def pad(factors: Factors, padding: str) -> dict[str, LoraFactors]:
    """Adds zero components up to the next power of two, or up to the highest rank of all; the products stay what they
    are.

    Args:
        padding: one of `PADDINGS`.
    """
    assert padding in PADDINGS, padding
    largest = largest_rank(factors)
    padded = {}
    for name, one in factors.items():
        more = padded_rank(one.rank, padding, largest) - one.rank
        padded[name] = LoraFactors(
            torch.nn.functional.pad(one.A, (0, 0, 0, more)),
            torch.nn.functional.pad(one.B, (0, more)),
        )
    return padded


def largest_rank(factors: Factors) -> int:
    """The highest rank of all; 0 if there is none."""
    return max((one.rank for one in factors.values()), default=0)


def lay_out(factors: Factors, layout: str) -> dict[str, LoraFactors]:
    """`factors` as a file in `layout` holds them; the update that a reader makes of them stays what it is.

    Under ``"constant-alpha"`` a reader scales a projection of rank r by ``alpha / r`` with the largest rank as alpha:
    the inverse of that goes into the factors, its square root into either, so that they stay balanced. ``"uniform"``
    pads all to the largest rank. ``"patterns"`` changes nothing.

    Args:
        factors: such that the update is ``B @ A``.
        layout: one of `LAYOUTS`.
    """
    assert layout in LAYOUTS, layout
    if layout == "uniform":
        return pad(factors, "common")
    if layout == "patterns":
        return dict(factors)
    alpha = largest_rank(factors)
    found = {}
    for name, one in factors.items():
        root = math.sqrt(one.rank / alpha)
        found[name] = LoraFactors((one.A.double() * root).float(), (one.B.double() * root).float())
    return found


def check_rank(exact: Factors, written: Factors, bound: int | None) -> None:
    """Refuses a layout that needs a higher rank than `bound`.

    Args:
        exact: without zero components.
        written: with them.
        bound: None allows any rank.

    Raises:
        ExportError: a projection has a higher rank.
    """
    if bound is None or (largest := largest_rank(written)) <= bound:
        return
    name = next(name for name, one in written.items() if one.rank == largest)
    if largest_rank(exact) <= bound:
        fix = "leave --pad power-of-two out"
    else:
        fix = (
            f"raise it to {largest}, add --compress {bound} (an approximation), train with ranks of at most {bound}, "
            "or export with --format merged"
        )
    raise ExportError(f"--max-rank {bound}: {name} has rank {largest} in this layout, more than the bound; {fix}")


@dataclass(frozen=True)
class Size:
    """What factors take up."""

    components: int
    parameters: int

    @classmethod
    def of(cls, factors: Factors) -> Size:
        return cls(
            sum(one.rank for one in factors.values()), sum(one.A.numel() + one.B.numel() for one in factors.values())
        )
