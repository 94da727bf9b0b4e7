r"""LoRA-FAIR's correction of the mean of the clients' `B`.

With the means ``A`` (r, d_in) and ``B`` (d_out, r) of the factors and `dW` the mean of the products, the server looks
for ``X = B + D`` that minimises::

    f(D) = 1 - <dW, X A> / (||dW|| ||X A||) + lambda ||D||        (Frobenius norms and products)

`A` occurs only as ``G = A A^T`` (r, r) and ``M = dW A^T = B G + R`` (d_out, r), where ``R = (dW - B A) A^T``: with
``u = <M, X>``, ``q^2 = tr X G X^T`` and ``w = ||dW||`` the cosine is ``u / (w q)``. Where `f` is stationary::

    D = (tau M - B G) (G + mu I)^-1,    tau = q^2 / u,    mu = lambda w q^3 / (u ||D||)

(``tau = 1, mu = lambda`` is the minimum of ``||X A - dW||^2 + lambda ||D||^2``.) Put into the equation of `tau`, `X`
makes it a quadratic one with one positive root for every `mu`; so all stationary points lie on a curve of the one
scalar `mu`, and are where ``lambda(mu) = mu u ||D|| / (w q^3)`` has the value that is asked for. In the eigenbasis of
`G`, `r` numbers each of four kinds give all of it.

``D = 0`` is stationary where lambda is at least the norm of the cosine's gradient there. For lambda = 0 the limit
lambda -> 0 is meant: of all maximisers of the cosine the one nearest to `B`. Where the cosine's best direction is at
more than a right angle to `B`, `f` may fall towards ``X -> 0`` and have no minimum there; that is no update to send, so
only minima that exist are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

_RANGE = 45.0
"""How far the logarithm of `mu` goes from that of the largest eigenvalue of `G`: float64 tells no difference beyond."""
_PER_UNIT = 8
"""Points of the curve per unit of the logarithm, between which a sign change is looked for."""


def correction(G: torch.Tensor, B: torch.Tensor, R: torch.Tensor, size: float, residual: float) -> torch.Tensor:
    """The minimiser `D` of `f`, ``(d_out, r)``; float64, as all that it is given.

    Args:
        G: ``A A^T``, ``(r, r)``; may be singular.
        B: the mean, ``(d_out, r)``.
        R: ``(dW - B A) A^T``, ``(d_out, r)``.
        size: ``||dW||``.
        residual: lambda, at least 0; may be infinite.
    """
    values, vectors = torch.linalg.eigh(G.cpu())  # r x r: not worth a kernel
    # Factors come in fp32: what is below its rounding in A is none of its directions. There `B` stays what it is.
    kept = values > len(values) * torch.finfo(torch.float32).eps ** 2 * values[-1]
    g, basis = values[kept], vectors[:, kept].to(G.device)
    in_B, in_R = B @ basis, R @ basis
    e, h, b = torch.stack([(in_R**2).sum(0), (in_R * in_B).sum(0), (in_B**2).sum(0)]).cpu().numpy()
    best = Curve(g.numpy(), e, h, b, size).best(residual)
    return torch.zeros_like(B) if best is None else moved(in_B, in_R, g.to(G.device), *best) @ basis.T


def moved(B: torch.Tensor, R: torch.Tensor, g: torch.Tensor, tau: float, mu: float) -> torch.Tensor:
    """``(tau M - B G) (G + mu I)^-1`` in the eigenbasis of `G`, in which `B` and `R` are given; `g` are its values."""
    return (tau * R + (tau - 1) * g * B) / (g + mu)


@dataclass(frozen=True)
class Curve:
    """The curve of stationary points, by `mu`; `w` apart, arrays ``(r,)`` by eigenvector of `G`.

    Attributes:
        g: positive eigenvalues of `G`.
        e: squared norms of the columns of `R`.
        h: products of the columns of `R` with those of `B`.
        b: squared norms of the columns of `B`.
        w: ``||dW||``.
    """

    g: np.ndarray
    e: np.ndarray
    h: np.ndarray
    b: np.ndarray
    w: float

    def best(self, residual: float) -> tuple[float, float] | None:
        """`tau` and `mu` of the minimum for lambda `residual`; None where that is ``D = 0``."""
        size2 = float((self.g * self.b).sum())
        if self.w == 0 or size2 == 0:
            return None  # there is no update to come near to, or none to correct
        aligned = float((self.h + self.g * self.b).sum())
        slope = self._slope(size2, aligned)
        if slope == 0:
            return None
        points = [(self._objective(mu, residual), mu) for mu in self._stationary(residual) if self.tau(mu) > 0]
        if not points:
            return None
        least, mu = min(points)
        if residual >= slope and 1 - aligned / (self.w * math.sqrt(size2)) <= least:
            return None
        return float(self.tau(mu)), mu

    def _slope(self, size2: float, aligned: float) -> float:
        """Norm of the cosine's gradient at ``D = 0``, where ``q^2`` is `size2` and `u` is `aligned`."""
        rest = 1 - aligned / size2
        squared = float((self.e + rest * self.g * (2 * self.h + rest * self.g * self.b)).sum())
        return math.sqrt(max(squared, 0.0)) / (self.w * math.sqrt(size2))

    def _stationary(self, residual: float) -> list[float]:
        """All `mu` at which ``lambda(mu)`` is `residual`."""
        from scipy.optimize import brentq

        if residual == 0:
            return [0.0]

        def excess(logarithm: np.ndarray) -> np.ndarray:
            return self._lambda(np.exp(logarithm)) - residual

        middle = math.log(self.g.max())
        grid = np.linspace(middle - _RANGE, middle + _RANGE, int(2 * _RANGE * _PER_UNIT) + 1)
        values = excess(grid)
        (before,) = np.nonzero(np.sign(values[:-1]) != np.sign(values[1:]))
        found = [math.exp(brentq(excess, grid[i], grid[i + 1], xtol=1e-13)) for i in before]
        return [0.0, *found] if values[0] > 0 else found

    def tau(self, mu: float | np.ndarray) -> np.ndarray:
        """The positive root of the quadratic equation that `tau` solves, for every `mu`; 0 where there is none."""
        g, mu = self.g, np.asarray(mu)[..., None]
        c = self.h + g * self.b  # <M, B>, column by column
        m = self.e + g * (2 * self.h + g * self.b)  # ||M||^2
        weight = (g + mu) ** -2
        square, line = (weight * m).sum(-1), (weight * c * (g - mu)).sum(-1)
        constant = (weight * mu * g * self.b).sum(-1)
        root = np.sqrt(line**2 + 4 * square * constant)
        upper = np.where(line > 0, line + root, 2 * constant)  # of the two forms of the root that which cancels nothing
        lower = np.where(line > 0, 2 * square, root - line)
        return np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)

    def _sums(self, mu: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`tau`, ``u = <M, X>``, ``q = ||X A||`` and ``||D||`` on the curve, for every `mu`."""
        tau, g, mu = self.tau(mu)[..., None], self.g, np.asarray(mu)[..., None]
        c, m = self.h + g * self.b, self.e + g * (2 * self.h + g * self.b)
        of_M, of_B = tau / (g + mu), mu / (g + mu)  # X = M (of_M) + B (of_B), column by column
        u = (of_M * m + of_B * c).sum(-1)
        q2 = (g * (of_M**2 * m + 2 * of_M * of_B * c + of_B**2 * self.b)).sum(-1)
        rest = tau - 1
        n2 = ((tau**2 * self.e + rest * g * (2 * tau * self.h + rest * g * self.b)) / (g + mu) ** 2).sum(-1)
        return tau[..., 0], u, np.sqrt(np.maximum(q2, 0)), np.sqrt(np.maximum(n2, 0))

    def _lambda(self, mu: np.ndarray) -> np.ndarray:
        """The lambda for which the curve's point at `mu` is stationary."""
        tau, _, q, n = self._sums(mu)
        return mu * n / (self.w * q * tau)  # u = q^2 / tau

    def _objective(self, mu: float, residual: float) -> float:
        """`f` at the curve's point at `mu`."""
        _, u, q, n = self._sums(mu)
        return float(1 - u / (self.w * q) + residual * n)
