"""The same update in other components: orthogonal ones, in the order of what each is worth. Pure.

The components of a projection overlap. To drop one of them drops what others hold too, or keeps a thing twice. A
rotation writes ``s B diag(c) A`` as ``s B' A'`` with components that do not overlap in a metric `Z` of the inputs, so
that dropping some of them costs exactly the sum of their values, and no update of fewer components costs less
(reference section 2.5). With a thin QR decomposition ``A = L Q^T``, a root ``F F^T`` of the metric within `Q`, and the
singular values ``U S V^T`` of ``B diag(c) L F``::

    A' = X Q^T,                X = D V^T F^-1
    B' = B diag(c) N,          N = L F V D^-1

Any `D` will do; this one gives every row of `A'` the mean norm of the rows of `A`, so that a step of `B'` moves the
layer as far as one of `B` did. The scale `s` stays, and the gates are 1.

With ``G = dL/dW``, autograd has ``dL/dA = s diag(c) B^T G`` and ``dL/dB = s G A^T diag(c)``, hence::

    dL/dA' = N^T dL/dA
    dL/dB' = (dL/dB) diag(c)^-1 M^T,          M A = A'

and so it is with sums of gradients over steps in which the weights stood still, such as first moments. (With
``M_A = M`` and ``M_B = diag(c) N`` these are the reference's.) Where a gate is next to 0, `B` had no gradient to speak
of; where the rows of `A` depend on each other, not every row of `A'` is made of them. Rows of `B'` for which there is
no `M` start anew.

Without gates, steps `dA` and `dB` of the old factors are ``M dA`` and ``dB N`` of the new ones, which move the update
alike: what gradients of `A` follow, steps of `B` do, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from dora_cli.methods.carry import Carry

NEGLIGIBLE = 1e-3
"""Share of a layer's largest below which a gate, or a direction of `A`, says nothing of a gradient; and what may be
missing of a row of `A'`, by its norm, for its moments to be carried."""

FLOOR = 1e-6
"""What a direction counts for at least, in shares of the mean of all, however seldom the inputs take it: what they did
not show in a few batches must not count for nothing, nor a row of `A'` be made of rounding."""


class Rotated(NamedTuple):
    """The new components of `n` projections; what they are worth falls from the first to the last.

    Attributes:
        A: ``(n, r, d_in)``, in the type of the old.
        B_t: ``(n, r, d_out)``.
        values: ``(s S)^2``, ``(n, r)``: what the update loses with a component, squared, in the metric.
        carry_A: ``N^T``, from rows of `A`.
        carry_B: ``M diag(c)^-1``, from rows of `B_t`.
    """

    A: torch.Tensor
    B_t: torch.Tensor
    values: torch.Tensor
    carry_A: Carry
    carry_B: Carry


Metric = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]
"""From `L`, ``(n, r, k)``, and the second moments `C` of ``u = A x``, ``(n, r, r)``: eigenvalues ``(n, k)`` and
eigenvectors ``(n, k, k)`` of `Z`.
"""


def of_weights(L: torch.Tensor, C: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The identity: values are squared Frobenius norms of the update (Eckart-Young)."""
    values = L.new_ones(len(L), L.shape[2])
    return values, torch.diag_embed(values)


def of_inputs(L: torch.Tensor, C: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """``Q^T E[x x^T] Q = L^-1 C L^-T``: values are mean squares of the projection's output.

    Eigenvalues are at least `FLOOR` times their mean, also in directions that `A` does not read, of which `C` cannot
    tell. Without any input the metric is the identity.
    """
    assert C is not None, "the metric of the inputs is made of their second moments"
    inverse = torch.linalg.pinv(L, rtol=NEGLIGIBLE)
    Z = inverse @ C.to(L) @ inverse.mT
    values, vectors = torch.linalg.eigh((Z + Z.mT) / 2)
    floor = FLOOR * values.clamp_min(0).mean(1, keepdim=True)
    return torch.where(floor > 0, torch.maximum(values, floor), 1.0), vectors


@dataclass(frozen=True)
class Rotation:
    """How to rotate all projections of a shape at once. Waits for the device.

    Attributes:
        metric: in which components shall not overlap.
        reads_inputs: whether it wants the second moments of what `A` gives.
    """

    metric: Metric
    reads_inputs: bool = False

    @torch.no_grad()
    def __call__(
        self,
        A: torch.Tensor,
        B_t: torch.Tensor,
        gates: torch.Tensor | None,
        scaling: float,
        second_moments: torch.Tensor | None = None,
    ) -> Rotated:
        """The new components. Computed in float64.

        Args:
            A: ``(n, r, d_in)``, finite.
            B_t: ``(n, r, d_out)``, finite.
            gates: ``(n, r)``; None where there are none.
            scaling: `s`.
            second_moments: ``C = E[u u^T]`` of ``u = A x`` over tokens, ``(n, r, r)``, while `A` stood still.

        Raises:
            torch.linalg.LinAlgError: something is not finite.
        """
        a, b_t = A.double(), B_t.double()
        c = torch.ones_like(a[..., 0]) if gates is None else gates.double()
        b_t = b_t * c[..., None]
        rank, norm = a.shape[1], a.norm(dim=2).mean(1)[:, None, None]
        Q, R = torch.linalg.qr(a.mT)
        L = R.mT
        squares, E = self.metric(L, second_moments)
        F, F_inverse = E * squares.sqrt()[:, None], E.mT / squares.sqrt()[..., None]
        # of many rows of B, the triangle of its own decomposition has all that singular values and V are made of
        _, S, V_t = torch.linalg.svd(torch.linalg.qr(b_t.mT).R @ L @ F)
        X = V_t @ F_inverse
        D = norm / X.norm(dim=2, keepdim=True)
        X, N_t = D * X, torch.where(D > 0, V_t @ F.mT @ L.mT / D, 0.0)
        # singular values that there is no room for are 0; components beyond the width of the input begin like the first
        values = torch.nn.functional.pad((scaling * S).square(), (0, rank - S.shape[1]))
        X = torch.cat([X, X[:, :1].expand(-1, rank - X.shape[1], -1)], 1)
        N_t = torch.nn.functional.pad(N_t, (0, 0, 0, rank - N_t.shape[1]))
        reads = N_t.norm(dim=2)
        usable = c.abs() > NEGLIGIBLE * c.abs().amax(1, keepdim=True)
        M, known = _solved(X, L, usable)
        return Rotated(
            A=(X @ Q.mT).to(A.dtype),
            B_t=(N_t @ b_t).to(B_t.dtype),
            values=values.to(A.dtype),
            carry_A=Carry(N_t, reads > NEGLIGIBLE * reads.amax(1, keepdim=True)),
            carry_B=Carry(torch.where(usable[:, None], M / c[:, None], 0.0), known),
        )


def _solved(X: torch.Tensor, L: torch.Tensor, usable: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`M` with ``M L = X``, of the `usable` rows of `L` alone, and for which rows of `X` there is one."""
    L = torch.where(usable[..., None], L, 0.0)
    M = X @ torch.linalg.pinv(L, rtol=NEGLIGIBLE)
    return M, (X - M @ L).norm(dim=2) <= NEGLIGIBLE * X.norm(dim=2)


ROTATIONS: Mapping[str, Rotation | None] = {
    "none": None,
    "weight": Rotation(of_weights),
    "input": Rotation(of_inputs, reads_inputs=True),
}
"""By the names of recipes."""

SINGULAR: Mapping[str, str] = {
    "weight": "squared singular value of its projection's update",
    "input": "squared singular value of its projection's output",
}
"""What the value of a rotated component is, for readers of reports."""
