"""What a server makes of the clients' factors of one projection: average, LoRA-FAIR, or the best product of their rank.

Clients send ``A_k``, ``B_k``; the server's start of the next round is one `A` and one `B`. What it would like to send
is the mean of the products, ``dW = sum p_k B_k A_k``, which differs from the product of the means by::

    E = dW - Bbar Abar = sum p_k (B_k - Bbar) (A_k - Abar)

In this form `E` is exactly zero where it must be: with one client, and with equal A's. All scales of the update
(alpha / r) are left out. No matrix of the size of a weight is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dora_cli.training.federated.residual import correction


@dataclass(frozen=True)
class Merged:
    """The server's factors of a projection, in the type of the clients', and how good the mean of the factors was.

    Attributes:
        A: ``(r, d_in)``.
        B: ``(d_out, r)``.
        correction: ``||dB||_F``, by which LoRA-FAIR moved `B` off the mean; 0 elsewhere. A float64 scalar, as are
            the others.
        distance: ``||Bbar Abar - dW||_F``, of the product of the means from the mean of the products.
        size: ``||dW||_F``.
    """

    A: torch.Tensor
    B: torch.Tensor
    correction: torch.Tensor
    distance: torch.Tensor
    size: torch.Tensor


Aggregation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], Merged]
"""Takes `A` ``(K, r, d_in)`` and `B` ``(K, d_out, r)`` of `K` clients, the weights ``(K,)`` that sum to 1 and lambda of
LoRA-FAIR; computes in float64 on the device of the factors, and may wait for it.
"""


class _Received:
    """Factors of all clients in float64, their means, and the deviations from them.

    Attributes:
        A: the mean, ``(r, d_in)``.
        B: the mean, ``(d_out, r)``.
        dA: ``A_k - Abar`` one below the other, ``(K r, d_in)``.
        dB: ``p_k (B_k - Bbar)`` side by side, ``(d_out, K r)``, so that ``E = dB dA``.
    """

    def __init__(self, A: torch.Tensor, B: torch.Tensor, weights: torch.Tensor) -> None:
        clients, rank, _ = A.shape
        assert B.shape[0] == clients == len(weights) and B.shape[2] == rank
        p = weights.to(A.device, torch.float64)[:, None, None]
        assert abs(float(p.sum()) - 1) < 1e-6, "the shares of the clients that came sum to 1"
        As, Bs = A.double(), B.double()
        self.A, self.B = weighted_mean(As, weights), weighted_mean(Bs, weights)
        self.dA = (As - self.A).flatten(0, 1)
        self.dB = (p * (Bs - self.B)).transpose(0, 1).flatten(1)
        self.rows, self.columns = As.flatten(0, 1), (p * Bs).transpose(0, 1).flatten(1)
        self.distance = product_norm(self.dB, self.dA)
        self.size = product_norm(torch.cat([self.B, self.dB], 1), torch.cat([self.A, self.dA]))
        self._dtype = A.dtype

    def merged(self, A: torch.Tensor, B: torch.Tensor, moved: torch.Tensor | None = None) -> Merged:
        correction = A.new_zeros(()) if moved is None else torch.linalg.matrix_norm(moved)
        return Merged(A.to(self._dtype), B.to(self._dtype), correction, self.distance, self.size)


def average(A: torch.Tensor, B: torch.Tensor, weights: torch.Tensor, residual: float) -> Merged:
    """FedIT (Zhang et al. 2023, arXiv 2305.05644): the means of the factors. `residual` says nothing here."""
    received = _Received(A, B, weights)
    return received.merged(received.A, received.B)


def lora_fair(A: torch.Tensor, B: torch.Tensor, weights: torch.Tensor, residual: float) -> Merged:
    """LoRA-FAIR (Bian et al. 2024, arXiv 2411.14961): ``Abar`` and ``Bbar + dB``, where `dB` brings the product nearer
    to the mean of the products (see `residual.correction`).
    """
    received = _Received(A, B, weights)
    # E Abar^T, (d_out, r): all that the correction needs of the residual
    projected = received.dB @ (received.dA @ received.A.T)
    moved = correction(received.A @ received.A.T, received.B, projected, float(received.size), residual)
    return received.merged(received.A, received.B + moved, moved)


def exact(A: torch.Tensor, B: torch.Tensor, weights: torch.Tensor, residual: float) -> Merged:
    """The best approximation of `dW` of rank `r` (the idea of FlexLoRA, Bai et al. 2024, arXiv 2402.11505).

    Of all factors of that product those are sent whose `A` is nearest to the mean ``Abar``, its rows orthogonal and of
    Abar's mean length: the clients' optimisers, which go on from round to round, then find about the rows that their
    moments belong to. (The basis is ours; the published one is that of the singular vectors.) Where `dW` has a lower
    rank, the rest of `A` is Abar's and the rest of `B` zero. `residual` says nothing here.
    """
    received = _Received(A, B, weights)
    rank = A.shape[1]
    rows = received.A.norm(dim=1).mean()
    rho = torch.where(rows > 0, rows, received.rows.norm(dim=1).mean())
    # sum p_k B_k A_k = Q_B (R_B R_A^T) Q_A^T, a core of at most K r x K r
    q_b, r_b = torch.linalg.qr(received.columns)
    q_a, r_a = torch.linalg.qr(received.rows.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    precision = torch.finfo(torch.float64).eps * max(r_b.shape[0], r_a.shape[0])
    kept = int((s[:rank] > precision * s[:1]).sum())
    U, S, V = q_b @ u[:, :kept], s[:kept], q_a @ vh[:kept].T
    p, _, wh = torch.linalg.svd(received.A @ V, full_matrices=False)
    Q = p @ wh  # (r, kept), with orthonormal columns: Q V^T is the nearest to Abar
    unused = received.A - Q @ (Q.T @ received.A)
    if kept == rank:
        unused = torch.zeros_like(unused)  # but for rounding
    return received.merged(rho * Q @ V.T + unused, (U * S) @ Q.T / rho)


AGGREGATIONS: dict[str, Aggregation] = {"lora-fair": lora_fair, "average": average, "exact": exact}
"""By what a recipe calls them."""


def product_norm(B: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """``||B A||_F`` of ``(d_out, n)`` and ``(n, d_in)``, from Gram matrices of ``n x n``."""
    return ((B.T @ B) * (A @ A.T)).sum().clamp(min=0).sqrt()


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean over the first dimension in float64, `weights` summing to 1; exactly the common value where all are
    equal.
    """
    p = weights.to(values.device, torch.float64).view(-1, *[1] * (values.ndim - 1))
    values = values.double()
    return values[0] + (p * (values - values[0])).sum(0)
