"""A pair across a GELU in passes without compiled blocks: two autograd functions, as `projection` has one."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import nn

from dora_cli.methods.low_rank.lean.gelu_pair import GeluPair, can_be_within
from dora_cli.methods.low_rank.lean.projection import LeanProjection


class LeanPair:
    """Two projections of a pass and the module between them; see `GeluPair`."""

    def __init__(self, first: LeanProjection, gelu: nn.Module, second: LeanProjection) -> None:
        self.members, self._gelu = (first, second), gelu
        self._pair = GeluPair(_Side(first), gelu, _Side(second))
        self._begun = False

    def begin(self) -> None:
        """Before a pass, after its projections have followed their bases."""
        self._begun = all(lean.layer.lean is lean for lean in self.members) and can_be_within(self._gelu)
        if self._begun:
            self._pair.begin()

    def end(self) -> None:
        """After a pass, also one that failed."""
        if self._begun:
            self._pair.end()
        self._begun = False

    def output_of(self, lean: LeanProjection, x: torch.Tensor) -> torch.Tensor | None:
        """What `lean`, one of the two, gives for `x`; None where it has to compute for itself."""
        return self._pair.output_of(self.members.index(lean), x) if self._begun else None


class _Side:
    """One of the projections."""

    def __init__(self, lean: LeanProjection) -> None:
        self._lean = ref(lean)  # no cycle

    def with_gelu(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        lean = self._lean()
        assert lean is not None
        if not lean.answers_in_its_own(x):
            return None
        y, activated = _WithGelu.apply(x, lean.trains, lean)  # type: ignore[no-untyped-call]
        return y, activated

    def of_gelu(self, activated: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        lean = self._lean()
        assert lean is not None
        found: torch.Tensor = _OfGelu.apply(activated, y, lean.trains, lean)  # type: ignore[no-untyped-call]
        return found


class _WithGelu(torch.autograd.Function):
    """From `x`, ``(..., d_in)``, to ``(..., d_out)`` and its GELU."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, trains: torch.Tensor | None, lean: LeanProjection
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = lean.inputs.cast(x).reshape(-1, x.shape[-1]).contiguous()  # kernels read one row after the other
        drop = lean.drop(rows)
        activated = rows.new_empty(*x.shape[:-1], lean.width)
        y, u = lean.map(rows, drop, x.shape[:-1], rows.dtype, activated.view(-1, lean.width))
        ctx.save_for_backward(rows if lean.keeps_rows else None, u, y)
        ctx.lean, ctx.drop, ctx.shape, ctx.dtype = lean, drop, x.shape, x.dtype
        ctx.set_materialize_grads(False)  # of the GELU nobody but the second projection may want any
        return y, activated

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor | None, of_gelu: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, None, None]:
        lean: LeanProjection = ctx.lean
        rows, u, y = ctx.saved_tensors
        if of_gelu is not None:
            own = torch.ops.aten.gelu_backward(of_gelu, y)
            gradient = own if gradient is None else gradient + own
        if gradient is None:
            return None, None, None
        dtype = ctx.dtype if ctx.needs_input_grad[0] else None
        dx = lean.differentiate(gradient.reshape(-1, gradient.shape[-1]), rows, u, ctx.drop, ctx.shape[:-1], dtype)
        return None if dx is None else dx.view(ctx.shape), None, None


class _OfGelu(torch.autograd.Function):
    """From the GELU of `y` to ``(..., d_out)``, with a gradient of `y`."""

    @staticmethod
    def forward(
        ctx: Any, activated: torch.Tensor, y: torch.Tensor, trains: torch.Tensor | None, lean: LeanProjection
    ) -> torch.Tensor:
        rows = activated.reshape(-1, activated.shape[-1]).contiguous()
        drop = lean.drop(rows)
        found, u = lean.map(rows, drop, y.shape[:-1], rows.dtype)
        ctx.save_for_backward(rows if lean.keeps_rows else None, u, y)
        ctx.lean, ctx.drop = lean, drop
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor | None, None, None]:
        lean: LeanProjection = ctx.lean
        rows, u, y = ctx.saved_tensors
        dtype = y.dtype if ctx.needs_input_grad[1] else None
        of = y.reshape(-1, y.shape[-1])
        rows_of_gradient = gradient.reshape(-1, gradient.shape[-1])
        dy = lean.differentiate(rows_of_gradient, rows, u, ctx.drop, y.shape[:-1], dtype, of)
        return None, None if dy is None else dy.view(y.shape), None, None
