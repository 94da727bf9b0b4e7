"""The frozen outer factors of a projection: a truncated SVD of its base weight, plain or activation-aware.

Of a weight `W`, ``(d_out, d_in)``, and scales `S` of its inputs (ones in the plain case)::

    W S = U Sigma V^T,  the leading r components
    B_o = U Sigma,  A_o = V^T S^-1

so that of all factors of rank r, ``B_o A_o`` changes what the map gives least, as far as `S` tells its inputs. All of
it in float64, batched over projections of one shape. Singular vectors come from the Gram matrix of the shorter side,
which takes a third of the time of a whole SVD; where that squares away what is asked for, from the SVD itself.

An SVD is not the same on every machine: vectors may change their signs, and turn where singular values are equal. So
factors that are not stored are told by a `Sketch`: computed again, they are turned to where they were, and refused if
they do not come near.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Sharing = Literal["output", "both"]

AT_ONCE = 8
"""Weights of one shape that are decomposed together; many more in float64 would fill a small GPU."""
_LEAST = 1e-4
"""Singular values below this share of the largest are not left to the Gram matrix, whose are the squares."""
_DEAD = 1e-4
"""The least scale of an input, in shares of the root mean square of all: what always was zero has none to divide by."""
WIDTH = 4
"""Numbers by which a sketch tells a component, at either factor."""
_SEED = 240810280
_EQUAL = 1e-6
"""Singular values closer than this, relative to the larger, count as equal: their vectors may have turned."""


@dataclass(frozen=True)
class Outer:
    """Outer factors: `A`, ``(n, r, d_in)``, and `B`, ``(n, d_out, r)``, or without the `n` those of one projection."""

    A: torch.Tensor
    B: torch.Tensor

    def __getitem__(self, index: int) -> Outer:
        return Outer(self.A[index], self.B[index])

    def to(self, dtype: torch.dtype) -> Outer:
        return Outer(self.A.to(dtype), self.B.to(dtype))


@dataclass(frozen=True)
class Sketch:
    """A few sums of every component of one projection, with random signs: `A` and `B`, ``(r, WIDTH)`` each."""

    A: torch.Tensor
    B: torch.Tensor


@torch.no_grad()
def scales_of(moments: torch.Tensor, power: float) -> torch.Tensor:
    """`S`: the root mean square of every input to a `power`, in shares of all inputs' root mean square.

    So it has no unit, and the outer factors keep the size that they have without it. Inputs that nothing reached tell
    nothing: all scales are one.

    Args:
        moments: ``E[x x^T]``, ``(d_in, d_in)``.
        power: 0 is the plain SVD.

    Returns:
        ``(d_in,)``, float64.
    """
    squares = moments.diagonal().double()
    if not bool(squares.isfinite().all() & (squares.sum() > 0)):
        return torch.ones_like(squares)
    roots = squares.clamp_min(0).sqrt()
    scales = roots.clamp_min(_DEAD * squares.mean().sqrt()) ** power
    return scales / scales.square().mean().sqrt()


@torch.no_grad()
def outer_factors(weights: torch.Tensor, rank: int, scales: torch.Tensor | None, sharing: Sharing) -> Outer:
    """The outer factors of the leading `rank` components of every weight, in float64.

    Args:
        weights: ``(n, d_out, d_in)``, finite.
        rank: at most ``min(d_out, d_in)``.
        scales: `S`, ``(n, d_in)``; None for the plain SVD.
        sharing: where the singular values go: ``"output"``, all into `B` (the published start); ``"both"``, their roots
            into each.
    """
    S = None if scales is None else scales.double()[:, None, :]
    left, sigma, right = _leading(weights.double() if S is None else weights.double() * S, rank)
    if S is not None:
        right = right / S
    if sharing == "output":
        return Outer(right, left * sigma[:, None, :])
    roots = sigma.sqrt()
    return Outer(right * roots[..., None], left * roots[:, None, :])


def _leading(weights: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`U`, ``(n, d_out, r)``, the singular values and ``V^T``, ``(n, r, d_in)``, of the leading `rank` components."""
    tall = weights.shape[1] > weights.shape[2]
    short = weights.mT if tall else weights  # (n, s, l), s <= l
    values, vectors = torch.linalg.eigh(short @ short.mT)
    left = vectors[..., -rank:].flip(-1)  # ascending before
    rows = left.mT @ short
    sigma = rows.norm(dim=-1)
    hard = values[:, -rank] <= (_LEAST**2) * values[:, -1]
    right = rows / sigma.clamp_min(torch.finfo(sigma.dtype).tiny)[..., None]
    for index in hard.nonzero().flatten().tolist():
        U, found, Vh = torch.linalg.svd(short[index], full_matrices=False)
        left[index], sigma[index], right[index] = U[:, :rank], found[:rank], Vh[:rank]
    if tall:
        left, right = right.mT, left.mT
    # a sign of their own: the largest entry of a right vector is positive
    signs = right.gather(-1, right.abs().argmax(-1, keepdim=True)).sign()
    signs = torch.where(signs == 0, 1.0, signs)
    return left * signs.mT, sigma, right * signs


@torch.no_grad()
def sketch_of(outer: Outer) -> Sketch:
    """What tells the outer factors of one projection, ``A``, ``(r, d_in)``, and ``B``, ``(d_out, r)``, in their type.

    The sums are made in float64, whatever precision the user has matrices multiplied in.
    """
    A, B = outer.A.double(), outer.B.T.double()
    return Sketch((A @ _signs(A.shape[1], A)).to(outer.A), (B @ _signs(B.shape[1], B)).to(outer.B))


def _signs(size: int, like: torch.Tensor) -> torch.Tensor:
    """``(size, WIDTH)``, 1 and -1: whole numbers, so that they are the same on every machine."""
    generator = torch.Generator().manual_seed(_SEED)
    return (torch.randint(2, (size, WIDTH), generator=generator) * 2 - 1).to(like)


@torch.no_grad()
def turned(outer: Outer, sketch: Sketch) -> tuple[Outer, float]:
    """`outer`, computed again, with signs and turns as `sketch` has them; and how far it is from there.

    Args:
        outer: of one projection, float64.
        sketch: of the factors as they were.

    Returns:
        The factors, and the largest distance of a component's sketch, in shares of the size of that component.
    """
    found = sketch_of(outer)
    size_A, size_B = outer.A.norm(dim=1), outer.B.norm(dim=0)
    equal = _equal(size_B)
    for block in equal:
        size_A[block] = size_A[block].mean()  # one for all of them, so that they turn together
    tiny = torch.finfo(size_A.dtype).tiny
    size_A, size_B = size_A.clamp_min(tiny)[:, None], size_B.clamp_min(tiny)[:, None]
    now, then = (torch.cat([one.A.to(size_A) / size_A, one.B.to(size_B) / size_B], dim=1) for one in (found, sketch))
    turn = torch.diag(torch.where((now * then).sum(1) < 0, -1.0, 1.0).to(now))
    for block in equal:
        if block.stop - block.start <= WIDTH:  # else the sketch does not say how they have turned
            U, _, Vh = torch.linalg.svd(then[block] @ now[block].T)
            turn[block, block] = U @ Vh
    misfit = float((turn @ now - then).norm(dim=1).max()) / (2 * WIDTH) ** 0.5
    return Outer(turn @ outer.A, outer.B @ turn.T), misfit


def _equal(values: torch.Tensor) -> list[slice]:
    """The ranges of two and more of descending `values` that are equal."""
    near = ((values[:-1] - values[1:]) <= _EQUAL * values[:-1]).tolist()
    ranges, first = [], 0
    for index in range(1, len(values) + 1):
        if index == len(values) or not near[index - 1]:
            if index - first > 1:
                ranges.append(slice(first, index))
            first = index
    return ranges


def batches(weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The names of weights that are decomposed together: of one shape, on one device."""
    alike: dict[tuple[torch.Size, torch.device], list[str]] = {}
    for name, weight in weights.items():
        alike.setdefault((weight.shape, weight.device), []).append(name)
    return [names[first : first + AT_ONCE] for names in alike.values() for first in range(0, len(names), AT_ONCE)]
