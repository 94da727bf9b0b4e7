"""What a component is worth: the scores by which ranks are allocated. Pure functions of tensors.

A component is ``e_i b_i a_i^T`` with ``e_i = s c_i``, or `s` where there are no gates; ``u = A x`` and ``v = dL/du``
are what a training pass has of it at each of `N` real tokens, of `n` examples in all; `L` is the step's loss. Then

=============  =========================================================  ==============================================
score          of one step                                                its average over steps, as value in a budget
=============  =========================================================  ==============================================
``published``  ``|c_i| ||a_i|| ||b_i|| / ||sum_j c_j b_j a_j^T||_F``      as it is
``norm``       ``(e_i ||a_i|| ||b_i||)^2``                                as it is: squared error of the update
``output``     ``e_i^2 ||b_i||^2 E[u_i^2]``                               as it is: squared error of the output
``taylor``     ``t_i = <b_i, dL/db_i>``                                   ``|.|``: first-order change of the loss
``fisher``     ``n sum_x (sum_{t in x} u_i v_i)^2``                       a half: expected increase of the loss
``kfac``       ``n N E[u_i^2] E[v_i^2]``                                  a half, likewise
=============  =========================================================  ==============================================

``dL/d(log e_i) = t_i``, with and without gates, whichever of `a`, `b` and `c` trains: removing the component changes
the loss by ``-t_i`` at first order. An example `x` has the part ``sum_{t in x} u_i v_i`` in it; its own loss being `n`
times its part of `L`, ``fisher`` is the mean over examples of the squares of their own: the diagonal of the empirical
Fisher matrix, which estimates the curvature. ``kfac`` is the same where tokens, and `u` and `v` at each of them, are
independent. All but ``published`` are the same however `a`, `b` and `c` of one component share its size.

Sources: ``published`` is equation 7 of Mao et al. 2024; ``taylor`` and ``fisher`` are the criteria of Molchanov et al.
2017 and of Theis et al. 2018 for a component's gate; ``kfac`` factors the Fisher matrix as Martens and Grosse 2015 do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from dora_cli.methods.low_rank.layout import Layout

EPS = 1e-8
"""Added to the denominator of ``published``, as in the published code; decides 0/0 at the first step in favour of 0."""

Shown = Literal["tokens", "inputs", "products", "outputs", "examples"]
"""What passes can show of components, see `followed.SUMS`."""


@dataclass(frozen=True)
class Observed:
    """What is known at one step of the components of one weight shape; row `i` of every tensor is one component.

    Attributes:
        A, B_t, c: ``(R, d_in)``, ``(R, d_out)`` and ``(R,)``, as `Components` holds them; no gates where `c` is None.
        scaling: `s`.
        grad_B_t: the gradient of `B_t`, unscaled and of the whole step, ``(R, d_out)``.
        layout: which rows are of which projection.
        sums: what the step's passes have shown, of those that were asked for it.
        examples: `n`, a scalar.
    """

    A: torch.Tensor
    B_t: torch.Tensor
    c: torch.Tensor | None
    scaling: float
    grad_B_t: torch.Tensor
    layout: Layout
    sums: Mapping[Shown, torch.Tensor] = field(default_factory=dict)
    examples: torch.Tensor | None = None

    @property
    def count(self) -> torch.Tensor:
        """`N` of each projection, at least 1, ``(M, 1)``."""
        return self.sums["tokens"].clamp_min(1).unsqueeze(1)

    @property
    def scales(self) -> torch.Tensor | float:
        """`e`."""
        return self.scaling if self.c is None else self.scaling * self.c


@dataclass(frozen=True)
class Score:
    """One way to tell what a component is worth.

    Attributes:
        of: the value of one step, ``(R,)``.
        worth: of an average of such values, what it is in a budget: not negative, and the more the better.
        gradients: whether `of` needs gradients, which belong to the weights before the optimiser's step.
        passes: what it needs of training passes.
    """

    of: Callable[[Observed], torch.Tensor]
    worth: Callable[[torch.Tensor], torch.Tensor] = lambda average: average
    gradients: bool = False
    passes: tuple[Shown, ...] = ()

    @property
    def staged(self) -> bool:
        """Whether its values are taken before the optimiser's step; else they are of the weights after it."""
        return self.gradients or bool(self.passes)


def gram(A: torch.Tensor, B_t: torch.Tensor) -> torch.Tensor:
    """``K = (B^T B) o (A A^T)``, at least fp32: no ``r x d_out x d_in`` tensor is ever made.

    Args:
        A: ``(..., r, d_in)``.
        B_t: ``(..., r, d_out)``, the transpose of `B`.

    Returns:
        ``(..., r, r)``.
    """
    dtype = torch.promote_types(A.dtype, torch.float32)
    A, B_t = A.to(dtype), B_t.to(dtype)
    return (A @ A.mT) * (B_t @ B_t.mT)


def scores_of_gram(gram: torch.Tensor, c: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """Normalised Frobenius norm of each component (Mao et al. 2024, equation 7), for projections of several shapes at
    once.

    ``s_i = ||c_i b_i a_i^T||_F / (||sum_j c_j b_j a_j^T||_F + eps)`` with the numerator ``|c_i| ||a_i|| ||b_i||`` and
    the squared denominator ``c^T K c``, where `K` is `gram`, ``(..., r, r)``. Cancellation can make ``c^T K c``
    slightly negative, so it is clamped at 0.

    Returns:
        Scores of shape ``(..., r)`` in the type of `gram`, non-negative, not bounded by 1.
    """
    c = c.to(gram.dtype)
    norms = c.abs() * gram.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    squared = ((gram @ c.unsqueeze(-1)).squeeze(-1) * c).sum(-1, keepdim=True).clamp_min(0)
    return norms / (squared.sqrt() + eps)


def _published(seen: Observed) -> torch.Tensor:
    c = seen.A.new_ones(len(seen.A)) if seen.c is None else seen.c
    stacked = seen.layout.stacked
    return seen.layout.rows(scores_of_gram(gram(stacked(seen.A), stacked(seen.B_t)), stacked(c)))


def _norm(seen: Observed) -> torch.Tensor:
    return _squares(seen.A) * _squares(seen.B_t) * seen.scales**2


def _output(seen: Observed) -> torch.Tensor:
    return _squares(seen.B_t) * seen.layout.rows(seen.sums["inputs"] / seen.count) * seen.scales**2


def _taylor(seen: Observed) -> torch.Tensor:
    return (seen.B_t * seen.grad_B_t).sum(-1)


def _fisher(seen: Observed) -> torch.Tensor:
    assert seen.examples is not None
    return seen.layout.rows(seen.sums["examples"]) * seen.examples


def _kfac(seen: Observed) -> torch.Tensor:
    assert seen.examples is not None
    return seen.layout.rows(seen.sums["inputs"] * seen.sums["outputs"] / seen.count) * seen.examples


def _squares(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(-1)


def _half(average: torch.Tensor) -> torch.Tensor:
    return average / 2


SCORES: dict[str, Score] = {
    "published": Score(_published),
    "norm": Score(_norm),
    "output": Score(_output, passes=("inputs",)),
    "taylor": Score(_taylor, torch.abs, gradients=True),
    "fisher": Score(_fisher, _half, passes=("examples",)),
    "kfac": Score(_kfac, _half, passes=("inputs", "outputs")),
}


WORDS: dict[str, str] = {
    "published": "share of the Frobenius norm of its projection's update",
    "norm": "squared Frobenius norm",
    "output": "mean square of what it adds to its projection's output",
    "taylor": "change of the loss without it, to first order",
    "fisher": "increase of the loss without it, by the Fisher information of single examples",
    "kfac": "increase of the loss without it, by Kronecker-factored Fisher information",
}
"""What each is of a component, for readers of reports."""


def ema(average: torch.Tensor, value: torch.Tensor, beta: float) -> torch.Tensor:
    """``beta * average + (1 - beta) * value`` (Mao et al. 2024, equation 8).

    No bias correction: it would not change any ranking.
    """
    return beta * average + (1 - beta) * value


def follow(average: torch.Tensor, value: torch.Tensor, beta: float, skipped: torch.Tensor | None) -> None:
    """Takes `value` into `average`, in place, unless `skipped`, a boolean scalar on the device, is true."""
    moved = ema(average, value, beta)
    average.copy_(moved if skipped is None else torch.where(skipped, average, moved))
