"""The adapted projection: a frozen linear map plus single-rank components, with gates where the method has them, and
with components of earlier links where it grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.linear import shape_of, trained_type, weight_of
from dora_cli.methods.low_rank.protocols import Watch, WeightNoise


class AdaptedProjection(nn.Module):
    """``y = W0 x + b + B' A' x + s B (c * (A dropout(x)))`` around a frozen linear map; without gates, ``c = 1``.

    `A`, `B` and `c` are what trains, in fp32 (float64 over a float64 base), on the device of the base. `A'` and `B'`
    are what was learned before and is tied (`tie`): it stays as it is, in the same precision, and nothing drops out
    before it.

    In `chunks`, input and output fall into so many equal pieces one after the other, and components of chunk `i` read
    the `i`-th piece of the input and write the `i`-th of the output: the update is block-diagonal (MELoRA).

    `forward` is the mathematics as it stands; while `lean` is set (`LeanPass`), the same is computed with less work.

    Args:
        base: the frozen `nn.Linear` or `Conv1D`.
        A: ``(r, d_in / chunks)`` at the start, chunk by chunk; without a row the layer computes what its base does.
        B: ``(d_out / chunks, r)`` at the start.
        c: the gates at the start, ``(r,)``; None for a layer without gates.
        scaling: `s`; stays what it is when components are pruned.
        dropout: probability for the adapter's input, in ``[0, 1)``.
        chunks: pieces of input and output; they divide `d_in`, `d_out` and `r`.
        frozen: which of ``"A"`` and ``"B"`` stay as they are.
    """

    tied_A: torch.Tensor | None
    tied_B: torch.Tensor | None

    def __init__(
        self,
        base: nn.Module,
        A: torch.Tensor,
        B: torch.Tensor,
        c: torch.Tensor | None = None,
        *,
        scaling: float,
        dropout: float,
        chunks: int = 1,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.base = base
        self.out_features, self.in_features = shape_of(base)
        assert A.shape[1] * chunks == self.in_features and B.shape == (self.out_features // chunks, len(A))
        assert self.out_features % chunks == len(A) % chunks == 0
        self.scaling = scaling
        self.dropout = dropout
        self.chunks = chunks
        self.frozen = frozenset(frozen)
        weight = weight_of(base)
        device, dtype = weight.device, trained_type(weight.dtype)
        self._begin(A.to(device, dtype), B.to(device, dtype))
        self.c = None if c is None else nn.Parameter(c.to(device, dtype))
        self.register_buffer("tied_A", None)
        self.register_buffer("tied_B", None)
        self.noise: WeightNoise | None = None  # on the base weight, in training alone
        self.lean: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.watch: Watch | None = None  # is shown what passes compute of the components
        self.train(base.training)

    def _begin(self, A: torch.Tensor, B: torch.Tensor) -> None:
        """`A` and `B` train from here on, as far as they do."""
        trains = {name: len(A) > 0 and name not in self.frozen for name in ("A", "B")}
        self.A = nn.Parameter(A, requires_grad=trains["A"])
        self.B = nn.Parameter(B, requires_grad=trains["B"])

    @property
    def rank(self) -> int:
        """Components held in memory, without those that are tied."""
        return int(self.A.shape[0])

    @property
    def tied(self) -> int:
        """Components of earlier links."""
        return 0 if self.tied_A is None else int(self.tied_A.shape[0])

    def factors(self) -> dict[str, nn.Parameter]:
        """What trains, by attribute."""
        factors = {"A": self.A, "B": self.B} if self.rank else {}
        trained = {name: factor for name, factor in factors.items() if name not in self.frozen}
        return trained if self.c is None else {**trained, "c": self.c}

    @torch.no_grad()
    def tie(self, A: torch.Tensor, B: torch.Tensor, *, factor: float = 1.0) -> None:
        """What has been learned stays as it is from here on, times `factor`; fresh `A` and `B` train.

        Args:
            A: ``(r, d_in)``; no row where nothing is to train.
            B: ``(d_out, r)``.
            factor: of the update that is tied.
        """
        assert self.chunks == 1 and self.c is None and not self.frozen, "such a layer does not grow"
        if self.rank:
            learned = self.A.detach(), self.scaling * factor * self.B.detach()
            tied_A, tied_B = self.tied_factors()
            self.tied_A, self.tied_B = torch.cat([tied_A, learned[0]]), torch.cat([tied_B, learned[1]], 1)
        self._begin(A.to(self.A), B.to(self.A))

    @torch.no_grad()
    def resize(self, tied: int, rank: int) -> None:
        """Makes room for so many components, of no value yet: to load others into it."""
        d_in, d_out = self.in_features, self.out_features
        if tied != self.tied:
            self.tied_A, self.tied_B = self.A.new_zeros(tied, d_in), self.A.new_zeros(d_out, tied)
        if rank != self.rank:
            self._begin(self.A.new_zeros(rank, d_in), self.A.new_zeros(d_out, rank))

    def tied_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``A'`` ``(k, d_in)`` and ``B'`` ``(d_out, k)``, without a component where nothing is tied."""
        if self.tied_A is None or self.tied_B is None:
            return self.A.new_empty(0, self.in_features), self.A.new_empty(self.out_features, 0)
        return self.tied_A, self.tied_B

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
        y: torch.Tensor = self.base(x) if self.noise is None or not self.training else self.noise.map(self, x)
        if self.tied_A is not None and self.tied_B is not None:
            y = y + F.linear(F.linear(self._own(x), self.tied_A), self.tied_B).to(y.dtype)
        if self.rank:
            h = self._own(F.dropout(x, self.dropout, self.training))
            u = self._down(h)
            if self.watch is not None and u.requires_grad:
                u.register_hook(partial(self.watch, u.detach()))  # type: ignore[no-untyped-call]
            y = y + self._up(u * self._scale).to(y.dtype)
        return y

    def _own(self, x: torch.Tensor) -> torch.Tensor:
        """In the adapter's own precision, where the base has another and there is no autocast."""
        return x if x.dtype == self.A.dtype or torch.is_autocast_enabled(x.device.type) else x.to(self.A.dtype)

    def _down(self, x: torch.Tensor) -> torch.Tensor:
        """``A x``, chunk by chunk, ``(..., r)``."""
        if self.chunks == 1:
            return F.linear(x, self.A)
        n, (r, width) = self.chunks, self.A.shape
        pieces = x.reshape(*x.shape[:-1], n, width)
        return torch.einsum("...nd,nrd->...nr", pieces, self.A.view(n, r // n, width)).flatten(-2)

    def _up(self, u: torch.Tensor) -> torch.Tensor:
        """``B u``, chunk by chunk, ``(..., d_out)``."""
        if self.chunks == 1:
            return F.linear(u, self.B)
        n, (width, r) = self.chunks, self.B.shape
        pieces = u.view(*u.shape[:-1], n, r // n)
        return torch.einsum("...nr,dnr->...nd", pieces, self.B.reshape(width, n, r // n)).flatten(-2)

    @property
    def _scale(self) -> torch.Tensor | float:
        """What multiplies each component: gate and scale, ``(r,)``, or the scale alone."""
        return self.scaling if self.c is None else self.scaling * self.c

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Factors and gates as tensors of their own, those that stay too: formats such as safetensors take no strided
        views of shared memory (`Components`).
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:
            for name, _ in self.named_parameters(recurse=False):
                destination[prefix + name] = destination[prefix + name].clone(memory_format=torch.contiguous_format)

    def delta(self, dtype: torch.dtype) -> torch.Tensor:
        """The update of the weight, ``B' A' + s B diag(c) A``, of shape ``(d_out, d_in)``, computed in `dtype`."""
        scale = self.scaling if self.c is None else self.scaling * self.c.detach().to(dtype)
        A, B = self.A.detach().to(dtype), self.B.detach().to(dtype) * scale
        if self.chunks > 1:
            A, B = in_blocks(A, self.chunks), in_blocks(B.T.contiguous(), self.chunks).T
        tied_A, tied_B = (tied.to(dtype) for tied in self.tied_factors())
        return B @ A if not self.tied else tied_B @ tied_A + B @ A

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of the whole update, scale and gates in the second: ``(k + r, d_in)`` and ``(d_out, k + r)``, with
        `k` tied components first; block-diagonal ones of a layer in chunks.
        """
        A, B = self.A.detach(), (self.B * self._scale).detach()
        if self.chunks > 1:
            A, B = in_blocks(A, self.chunks), in_blocks(B.T.contiguous(), self.chunks).T
        tied_A, tied_B = self.tied_factors()
        return (torch.cat([tied_A, A]), torch.cat([tied_B, B], 1)) if self.tied else (A, B)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
        return f"{sizes}, scaling={self.scaling:g}, dropout={self.dropout:g}"


def in_blocks(rows: torch.Tensor, chunks: int) -> torch.Tensor:
    """``(r, d / chunks)``, chunk by chunk, as block-diagonal ``(r, d)``."""
    r, width = rows.shape[0] // chunks, rows.shape[1]
    blocks = rows.new_zeros(chunks, r, chunks, width)
    for chunk, part in enumerate(rows.view(chunks, r, width)):
        blocks[chunk, :, chunk] = part
    return blocks.view(chunks * r, chunks * width)
