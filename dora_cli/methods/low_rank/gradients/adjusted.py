"""Gradients of two factors that follow the full gradient of the weight better than their own do.

With the update ``s B A``, a step along `gA` and `gB` moves the weight along the equivalent gradient
``s (B gA + gB A)``. `closest` (LoRA-Pro, Wang et al. 2024, arXiv 2407.18242; reference section 3.3) makes that as near
to the weight's own gradient `g` as two factors allow. Of what autograd gives, ``hA = s B^T g``, ``hB = s g A^T``::

    gA = H_B^-1 hA / s^2 + X A
    gB = (I - B H_B^-1 B^T) hB H_A^-1 / s^2 - B X
    H_B X + X H_A = -H_B^-1 hA A^T / s^2,     H_B = B^T B + d I,  H_A = A A^T + d I

Any `X` gives the same equivalent gradient; this one keeps the two nearest to what autograd gives. Where `B` is 0, as at
the start, `hA` is 0 too, and what is left is ``gA = 0``, ``gB = hB H_A^-1 / s^2``.

`scaled` (Zhang and Pilanci 2024, arXiv 2402.02347) is ``gA = H_B^-1 hA``, ``gB = hB H_A^-1``: gradients in a
Riemannian metric.

All projections of a shape are one batch, and all of a rank share their small matrices' decomposition. Where ranks
differ within a shape, rows of zeros fill the smaller ones up, which add nothing to the others. It is computed in
float64: Gram matrices square the condition of the factors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.gradients.eigen import eigen

Pair = tuple[torch.Tensor, torch.Tensor]
"""Something of `A` and of the transpose of `B`, a row a component."""


class Small(NamedTuple):
    """What is small of one factor `F` and its gradient `h`, ``(n, r, r)`` for `n` projections.

    Attributes:
        cross: ``h F^T``.
        values: the eigenvalues of ``F F^T + d I``, ``(n, r)``.
        vectors: its eigenvectors, as columns.
        inverse: of it.
    """

    cross: torch.Tensor
    values: torch.Tensor
    vectors: torch.Tensor
    inverse: torch.Tensor


Rule = Callable[[Small, Small], Pair]
"""From what is small of `A` and of the transpose of `B`: how much the new gradients of both take of their old one and
of their factor, ``(n, r, 2 r)``.
"""


def closest(A: Small, B: Small) -> Pair:
    """LoRA-Pro's. Gradients are divided by the square of the scale before."""
    in_bases = -(B.vectors.mT @ A.cross @ A.vectors) / B.values[..., None]
    X = B.vectors @ (in_bases / (B.values[..., None] + A.values[:, None])) @ A.vectors.mT
    of_A, (inverse, of_B) = torch.cat([B.inverse, X], 2), equivalent(A, B)[1].chunk(2, 2)
    return of_A, torch.cat([inverse, of_B - X.mT], 2)


def equivalent(A: Small, B: Small) -> Pair:
    """LoRA-Pro's with ``X = 0``: the same equivalent gradient."""
    of_A = torch.cat([B.inverse, torch.zeros_like(B.inverse)], 2)
    return of_A, torch.cat([A.inverse, -A.inverse @ B.cross @ B.inverse], 2)


def scaled(A: Small, B: Small) -> Pair:
    """The Riemannian ones."""
    nothing = torch.zeros_like(A.inverse)
    return torch.cat([B.inverse, nothing], 2), torch.cat([A.inverse, nothing], 2)


class Adjustment(NamedTuple):
    """What the optimiser is given in place of the gradients of two factors; see `adjusted`."""

    rule: Rule
    damping: float

    @torch.no_grad()
    def __call__(self, groups: Sequence[Components]) -> None:
        """Replaces the gradients of all factors of `groups`, which have no gates, by what `adjusted` makes of them."""
        gradients = [group.take_gradients()[:2] for group in groups]
        for pair, found in zip(gradients, adjusted(groups, gradients, self.rule, self.damping), strict=True):
            for gradient, new in zip(pair, found, strict=True):
                gradient.copy_(new)


ADJUSTMENTS: Mapping[str, Adjustment | None] = {
    "plain": None,
    "pro": Adjustment(closest, 1e-8),
    "riemannian": Adjustment(scaled, 1e-2),
}
"""By the names of recipes; damped as LoRA-Pro's code has it, and as PEFT has it. None leaves autograd's."""


def adjustment(name: str, damping: float | None) -> Adjustment | None:
    """That of `name`, with a `damping` of its own unless that is None."""
    usual = ADJUSTMENTS[name]
    return usual if usual is None or damping is None else usual._replace(damping=damping)


def adjusted(groups: Sequence[Components], gradients: Sequence[Pair], rule: Rule, damping: float) -> list[Pair]:
    """What `rule` makes of the `gradients` of each of `groups`, in float64.

    Args:
        groups: projections of one shape each, without gates.
        gradients: of their `A` and `B_t`, as autograd has them.
        rule: `closest`, `equivalent` or `scaled`.
        damping: `d`, added to the Gram matrices of the factors; above 0 where ranks within a shape differ.
    """
    found: dict[int, Pair] = {}
    alike = defaultdict(list)
    for index, group in enumerate(groups):
        alike[group.layout.width].append(index)
    for indices in alike.values():
        rows = [_stacked(groups[index], gradients[index], rule) for index in indices]
        A, B = _small(rows, damping)
        counts = [len(of_A) for of_A, _ in rows]
        shares = zip(*(torch.split(share, counts) for share in rule(A, B)), strict=True)
        for index, (of_A, of_B), (share_A, share_B) in zip(indices, rows, shares, strict=True):
            rows_of = groups[index].layout.rows
            found[index] = rows_of(share_A @ of_A), rows_of(share_B @ of_B)
    return [found[index] for index in range(len(groups))]


def _stacked(group: Components, gradients: Pair, rule: Rule) -> Pair:
    """The gradient of each projection's factor with the factor beneath, ``(n, 2 r, d)``."""
    layout, scale = group.layout, 1.0 if rule is scaled else group.scaling**-2
    rank = layout.width
    stacked = []
    for gradient, factor in zip(gradients, (group.A, group.B_t), strict=True):
        width = factor.shape[1]
        rows = factor.new_empty(len(group.layers), 2 * rank, width, dtype=torch.float64)
        torch.mul(layout.stacked(gradient), scale, out=rows[:, :rank])
        rows[:, rank:] = layout.stacked(factor)
        stacked.append(rows)
    of_A, of_B = stacked
    return of_A, of_B


def _small(rows: Sequence[Pair], damping: float) -> tuple[Small, Small]:
    """What is small of the factors of groups of equal width, as `_stacked` gives them; decomposed all at once."""
    products = [torch.cat([of @ of.chunk(2, 1)[1].mT for of in factor]) for factor in zip(*rows, strict=True)]
    crosses, grams = zip(*(product.chunk(2, 1) for product in products), strict=True)
    values, vectors = eigen(torch.cat(grams))
    values = values.clamp_min(0) + damping  # rounding may leave them below 0
    inverses = (vectors / values[:, None]) @ vectors.mT
    A, B = (Small(*parts) for parts in zip(crosses, values.chunk(2), vectors.chunk(2), inverses.chunk(2), strict=True))
    return A, B
