"""The nested projection: a frozen linear map plus a small LoRA between two frozen factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.linear import shape_of, trained_type, weight_of
from dora_cli.methods.low_rank.protocols import Watch, WeightNoise


class NestedProjection(nn.Module):
    """``y = W0 x + b + s B_o (B (A (A_o dropout(x))))`` around a frozen linear map.

    `A` and `B` are what trains, in fp32 (float64 over a float64 base); `A_o` and `B_o` are frozen, in the same type;
    all are on the device of the base.

    `forward` is the mathematics as it stands; while `lean` is set (`LeanPass`), the same is computed with less work.

    Args:
        base: the frozen `nn.Linear` or `Conv1D`.
        A: ``(r', r)`` at the start.
        B: ``(r, r')`` at the start.
        scaling: `s`.
        dropout: probability for the adapter's input, in ``[0, 1)``.

    Attributes:
        A_o: ``(r, d_in)``; zeros until the method has set it.
        B_o: ``(d_out, r)``, likewise.
    """

    A_o: torch.Tensor
    B_o: torch.Tensor

    def __init__(self, base: nn.Module, A: torch.Tensor, B: torch.Tensor, *, scaling: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.out_features, self.in_features = shape_of(base)
        assert A.shape == B.T.shape
        self.scaling = scaling
        self.dropout = dropout
        weight = weight_of(base)
        device, dtype = weight.device, trained_type(weight.dtype)
        self.A, self.B = nn.Parameter(A.to(device, dtype)), nn.Parameter(B.to(device, dtype))
        self.register_buffer("A_o", torch.zeros(self.outer_rank, self.in_features, dtype=dtype, device=device))
        self.register_buffer("B_o", torch.zeros(self.out_features, self.outer_rank, dtype=dtype, device=device))
        # what else a training pass asks for, of which a nested projection has nothing
        self.c: nn.Parameter | None = None
        self.chunks, self.tied, self.frozen = 1, 0, frozenset[str]()
        self.noise: WeightNoise | None = None
        self.watch: Watch | None = None
        self.lean: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.train(base.training)

    @property
    def rank(self) -> int:
        """`r'`: components that the update is made of."""
        return int(self.A.shape[0])

    @property
    def outer_rank(self) -> int:
        """`r`."""
        return int(self.A.shape[1])

    def factors(self) -> dict[str, nn.Parameter]:
        """What trains, by attribute."""
        return {"A": self.A, "B": self.B}

    def tied_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of earlier links, of which there are none."""
        return self.A_o[:0], self.B_o[:, :0]

    @property
    def weight(self) -> torch.Tensor:
        """The base weight, in the base's own storage order."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias  # type: ignore[return-value]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """All factors as tensors of their own: formats such as safetensors take no strided views of shared memory
        (`NestedComponents`).
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:
            for name in ("A", "B", "A_o", "B_o"):
                destination[prefix + name] = destination[prefix + name].clone(memory_format=torch.contiguous_format)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., d_in) -> (..., d_out)``."""
        if self.lean is not None:
            return self.lean(x)
        y: torch.Tensor = self.base(x)
        h = F.dropout(x, self.dropout, self.training)
        if h.dtype != self.A.dtype and not torch.is_autocast_enabled(x.device.type):
            h = h.to(self.A.dtype)  # a half-precision base outside autocast: the adapter stays in its own precision
        u = F.linear(F.linear(h, self.A_o), self.A)
        update = F.linear(F.linear(u * self.scaling, self.B), self.B_o)
        return y + update.to(y.dtype)

    def plain(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors of the same update as a plain LoRA of rank `r'`, computed in `dtype`: ``A A_o``, ``(r', d_in)``,
        and ``s B_o B``, ``(d_out, r')``.
        """
        A, B, A_o, B_o = (factor.detach().to(dtype) for factor in (self.A, self.B, self.A_o, self.B_o))
        return A @ A_o, B_o @ B * self.scaling

    def delta(self, dtype: torch.dtype) -> torch.Tensor:
        """The update of the weight, ``s B_o B A A_o``, ``(d_out, d_in)``, computed in `dtype`."""
        A, B = self.plain(dtype)
        return B @ A

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        ranks = f"rank={self.rank}, outer_rank={self.outer_rank}"
        return f"{sizes}, {ranks}, scaling={self.scaling:g}, dropout={self.dropout:g}"
