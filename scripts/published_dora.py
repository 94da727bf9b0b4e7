"""DoRA's training step in the manner of the published code, to time ours against.

This is our own transcription of what the published code computes (github MIkumikumi0116/DoRA, commit 235e21f), written
from a description of it; it is not the authors' file, and where the description is silent it is plain PyTorch. What
makes it the published manner:

* every projection works for itself: dropout, two products, the gate, the scale and the sum are separate operations left
  to autograd;
* DEM is a term of the loss, a Python loop over the projections, differentiated by autograd in every step;
* scores come from explicit matrices: per projection ``B diag(c) A`` and its norm, then all rank-1 matrices in one ``r x
  d_out x d_in`` tensor and their norms, and an average of its own; a Python loop, in every step until the freeze.

Where ours differs in what is computed (ties; events whose target truncates to 0, at each of which ``max(k, 1)`` zeroes
a gate; a schedule of floats, whose freeze and last target are one off for some lengths and ranks), no ordinary step is
concerned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F


class PublishedProjection(nn.Module):
    """``y = W0 x + b + s B (c * (A dropout(x)))`` around a frozen `nn.Linear`."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float, beta: float) -> None:
        super().__init__()
        self.base = base
        self.scaling, self.dropout, self.beta = alpha / rank, dropout, beta
        weight = base.weight
        d_out, d_in = weight.shape
        self.A = nn.Parameter(torch.empty(rank, d_in, device=weight.device).uniform_(-1, 1) * math.sqrt(6 / d_in))
        self.B = nn.Parameter(torch.empty(d_out, rank, device=weight.device).uniform_(-1, 1) * math.sqrt(6 / rank))
        self.c = nn.Parameter(torch.zeros(rank, device=weight.device))
        self.register_buffer("average", torch.zeros(rank, device=weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.dropout(x, self.dropout, self.training)
        y: torch.Tensor = self.base(x)
        return y + self.scaling * F.linear(self.c * F.linear(h, self.A), self.B)

    def variances(self) -> torch.Tensor:
        return torch.var(self.A, dim=1).sum() + torch.var(self.B, dim=0).sum()

    def scores(self) -> torch.Tensor:
        whole = torch.linalg.matrix_norm((self.B * self.c) @ self.A)
        components = torch.einsum("or,r,ri->roi", self.B, self.c, self.A)
        return torch.linalg.matrix_norm(components) / (whole + 1e-8)

    def update_average(self) -> None:
        self.average.copy_(self.beta * self.average + (1 - self.beta) * self.scores())


class PublishedDora:
    """The method over all its projections: what an ordinary step before the freeze needs."""

    def __init__(
        self,
        model: nn.Module,
        projections: Mapping[str, nn.Module],
        *,
        start_rank: int,
        alpha: float = 8.0,
        dropout: float = 0.1,
        beta: float = 0.9,
        dem_weight: float = 0.5,
    ) -> None:
        self.start_rank, self.dem_weight = start_rank, dem_weight
        self.layers: list[PublishedProjection] = []
        for name, base in projections.items():
            if not isinstance(base, nn.Linear):
                raise TypeError(f"the published code adapts nn.Linear alone; {name} is {type(base).__name__}")
            layer = PublishedProjection(base, rank=start_rank, alpha=alpha, dropout=dropout, beta=beta)
            model.set_submodule(name, layer)
            self.layers.append(layer)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers for parameter in (layer.A, layer.B, layer.c)]

    def regulariser(self) -> torch.Tensor:
        """``eta * R`` for the loss."""
        total = torch.stack([layer.variances() for layer in self.layers]).sum()
        return self.dem_weight * total / (2 * len(self.layers) * self.start_rank)

    @torch.no_grad()
    def after_step(self) -> None:
        """Scores and their averages, after the optimiser's step."""
        for layer in self.layers:
            layer.update_average()
