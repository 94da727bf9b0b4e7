"""Factors of a lower rank: the best approximation of every projection's update, and how far it is from the update.

By the theorem of Eckart and Young nothing of rank R is nearer to ``B A`` (Frobenius) than the first R terms of its
singular value decomposition. That of a product of two thin factors takes no matrix of the weight's size: with the QR
decompositions ``B = Q_B R_B`` and ``A^T = Q_A R_A`` it is that of the small ``R_B R_A^T``, between the two `Q`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dora_cli.export.factors import Factors, Size
from dora_cli.methods.base import LoraFactors
from dora_cli.wording import plural


@dataclass(frozen=True)
class Compression:
    """What an approximation of bounded rank has left out.

    Attributes:
        rank: the bound.
        cut: how many projections had a higher rank.
        error: the norm of what was left out over that of the update, all projections together (Frobenius).
        worst: the highest such share of one projection.
        worst_projection: its name; None where nothing was cut.
        before: components and parameters that there were.
    """

    rank: int
    cut: int
    error: float
    worst: float
    worst_projection: str | None
    before: Size


def compress(factors: Factors, rank: int) -> tuple[dict[str, LoraFactors], Compression]:
    """Factors of at most `rank`, each the best approximation of its update; those of no higher rank stay as they are.

    Computed in float64 and rounded once. Both factors of a component are equally large; one whose singular value is
    zero up to rounding is left out, but the last of a projection.
    """
    assert rank >= 1
    found: dict[str, LoraFactors] = {}
    lost = whole = worst = 0.0
    worst_projection, cut = None, 0
    for name, one in factors.items():
        outer, inner = torch.linalg.qr(one.B.double()), torch.linalg.qr(one.A.double().T)
        U, S, Vh = torch.linalg.svd(outer.R @ inner.R.T, full_matrices=False)
        norm, missing = float(S.norm()), 0.0
        found[name] = one
        if one.rank > rank:
            kept = max(1, min(rank, int((S[0] * one.rank * torch.finfo(S.dtype).eps < S).sum())))
            missing, root = float(S[kept:].norm()), S[:kept].sqrt()
            B, A = outer.Q @ (U[:, :kept] * root), (Vh[:kept] * root[:, None]) @ inner.Q.T
            found[name] = LoraFactors(A.float().contiguous(), B.float().contiguous())
            cut += 1
            share = missing / norm if norm else 0.0
            if worst_projection is None or share > worst:
                worst, worst_projection = share, name
        lost, whole = lost + missing**2, whole + norm**2
    error = (lost / whole) ** 0.5 if whole else 0.0
    return found, Compression(rank, cut, error, worst, worst_projection, Size.of(factors))


def describe_compression(found: Compression, show: Callable[[str], str] = str) -> str:
    """One sentence on it; `show` is how the name of a projection is written."""
    if not found.cut:
        return f"No projection has a rank above {found.rank}, so nothing is approximated."
    assert found.worst_projection is not None
    return (
        f"The update of {plural(found.cut, 'projection')} is the best approximation of rank {found.rank}: the relative "
        f"error (Frobenius) is {found.error:.3g} over all updates, and {found.worst:.3g} in the worst projection, "
        f"{show(found.worst_projection)}."
    )
