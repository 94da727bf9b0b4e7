"""The adapted projection: a frozen linear map plus single-rank components, with gates where the method has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.linear import shape_of, trained_type, weight_of


class AdaptedProjection(nn.Module):
    """``y = W0 x + b + s B (c * (A dropout(x)))`` around a frozen linear map; without gates, ``c = 1``.

    `A`, `B` and `c` are what trains, in fp32 (float64 over a float64 base), on the device of the base.

    `forward` is the mathematics as it stands; while `lean` is set (`LeanPass`), the same is computed with less work.

    Args:
        base: the frozen `nn.Linear` or `Conv1D`.
        A: ``(r, d_in)`` at the start, at least one row.
        B: ``(d_out, r)`` at the start.
        c: the gates at the start, ``(r,)``; None for a layer without gates.
        scaling: `s`; stays what it is when components are pruned.
        dropout: probability for the adapter's input, in ``[0, 1)``.
    """

    def __init__(
        self,
        base: nn.Module,
        A: torch.Tensor,
        B: torch.Tensor,
        c: torch.Tensor | None = None,
        *,
        scaling: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.base = base
        self.out_features, self.in_features = shape_of(base)
        assert len(A) and A.shape == (len(A), self.in_features) and B.shape == (self.out_features, len(A))
        self.scaling = scaling
        self.dropout = dropout
        weight = weight_of(base)
        device, dtype = weight.device, trained_type(weight.dtype)
        self.A, self.B = nn.Parameter(A.to(device, dtype)), nn.Parameter(B.to(device, dtype))
        self.c = None if c is None else nn.Parameter(c.to(device, dtype))
        self.lean: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.train(base.training)

    @property
    def rank(self) -> int:
        """Components held in memory."""
        return int(self.A.shape[0])

    def factors(self) -> dict[str, nn.Parameter]:
        """What trains, by attribute."""
        trained = {"A": self.A, "B": self.B}
        return trained if self.c is None else {**trained, "c": self.c}

    @property
    def gates(self) -> nn.Parameter:
        """The gates of a layer that has them."""
        assert self.c is not None, "this layer has no gates"
        return self.c

    @property
    def weight(self) -> torch.Tensor:
        """The base weight, in the base's own storage order."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., d_in) -> (..., d_out)``."""
        if self.lean is not None:
            return self.lean(x)
        y: torch.Tensor = self.base(x)
        h = F.dropout(x, self.dropout, self.training)
        if h.dtype != self.A.dtype and not torch.is_autocast_enabled(x.device.type):
            h = h.to(self.A.dtype)  # a half-precision base outside autocast: the adapter stays in its own precision
        update = F.linear(F.linear(h, self.A) * self._scale, self.B)
        return y + update.to(y.dtype)

    @property
    def _scale(self) -> torch.Tensor | float:
        """What multiplies each component: gate and scale, ``(r,)``, or the scale alone."""
        return self.scaling if self.c is None else self.scaling * self.c

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Factors and gates as tensors of their own: formats such as safetensors take no strided views of shared memory
        (`Components`).
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:
            for name in self.factors():
                destination[prefix + name] = destination[prefix + name].clone(memory_format=torch.contiguous_format)

    def delta(self, dtype: torch.dtype) -> torch.Tensor:
        """The update of the weight, ``s B diag(c) A``, of shape ``(d_out, d_in)``, computed in `dtype`."""
        scale = self.scaling if self.c is None else self.scaling * self.c.detach().to(dtype)
        return (self.B.detach().to(dtype) * scale) @ self.A.detach().to(dtype)

    def factor(self) -> torch.Tensor:
        """``s B diag(c)``, ``(d_out, r)``: what multiplies `A` in the update."""
        return self.B * self._scale

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
        return f"{sizes}, scaling={self.scaling:g}, dropout={self.dropout:g}"
