"""A training pass over a model with adapted projections, with as little work and memory as it takes.

Per pass, not per projection: copies of all factors in the precision of the arithmetic, with gates and scale folded into
one of them; the seeds of all dropouts; the gradients of all gates. Per projection: the frozen map and the products of
`kernels`, in one autograd function that saves its input once (shared by the projections that read the same one) and
adds gradients of the factors where they belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.components import Group
from dora_cli.methods.low_rank.dropout import ModelDropouts
from dora_cli.methods.low_rank.kernels import Kernels, kernels_for
from dora_cli.methods.low_rank.layer import AdaptedProjection


class LeanPass:
    """What the passes of a training share until ranks change.

    Args:
        model: what they are attached to.
        groups: all components that are trained.
        dtype: of the arithmetic: autocast's, or that of factors and activations where there is none.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], dtype: torch.dtype) -> None:
        self._groups, self.dtype = groups, dtype
        layers = [layer for group in groups for layer in group.layers]
        rank = max(layer.rank for layer in layers)
        self.kernels: Kernels = kernels_for(layers[0].A.device, dtype, len(layers), rank)
        self._inputs = _Inputs(dtype)
        self._model_dropouts = ModelDropouts(model) if layers[0].A.device.type == "cpu" else None
        self.drops = any(layer.dropout for layer in layers)
        self._shared = [_Shared(group, dtype, self.kernels) for group in groups]
        self._lean: list[tuple[AdaptedProjection, LeanProjection]] = []
        for shared in self._shared:
            for start, layer in zip(shared.group.starts, shared.group.layers, strict=True):
                rows = slice(start, start + layer.rank)
                parts = shared.A[rows], shared.B_t[rows], shared.grad_A[:, rows], shared.grad_up[:, rows]
                self._lean.append((layer, LeanProjection(self.kernels, self._inputs, len(self._lean), layer, *parts)))

    @torch.no_grad()
    def begin(self) -> None:
        """Before a forward pass: takes over the present weights."""
        for shared in self._shared:
            shared.group.take_gradients()
            shared.group.begin_pass()
            shared.prepare()
        if self.drops:
            self.kernels.begin()
        if self._model_dropouts is not None:
            self._model_dropouts.begin()
        for layer, lean in self._lean:
            layer.lean = lean if lean.follow_base() else None

    def end(self) -> None:
        """After a pass, also one that failed, or that did not get beyond its beginning."""
        self._inputs.forget()
        if self._model_dropouts is not None:
            self._model_dropouts.end()
        for layer, _ in self._lean:
            layer.lean = None

    @torch.no_grad()
    def finish(self) -> None:
        """After the backward pass: gradients of `B`, and of the gates, from those of their product."""
        for shared in self._shared:
            shared.finish()
            shared.group.end_pass()


class _Inputs:
    """Inputs in the precision of the arithmetic, one copy for all projections that read the same one
    after the other.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._cast: tuple[torch.Tensor, int, torch.Tensor] | None = None

    def cast(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == self.dtype:
            return x
        if self._cast is None or self._cast[0] is not x or self._cast[1] != x._version:
            self._cast = x, x._version, x.to(self.dtype)
        return self._cast[2]

    def forget(self) -> None:
        self._cast = None


class _Shared:
    """Copies and gradients of one group: `A` and ``s B diag(c)`` (by rows) in the precision of the arithmetic."""

    def __init__(self, group: Group, dtype: torch.dtype, kernels: Kernels) -> None:
        self.group, self.kernels, self.scaling = group, kernels, group.scaling
        self.A = group.A if group.A.dtype == dtype else torch.empty_like(group.A, dtype=dtype)
        self.B_t = torch.empty_like(group.B_t, dtype=dtype)
        splits = kernels.splits(group.A.shape[1])
        gradient, _, _ = group.take_gradients()
        self.grad_A = gradient[None] if splits == 1 else gradient.new_zeros(splits, *gradient.shape)
        # of what multiplies `u`, without gate and scale
        self.grad_up = group.B_t.new_zeros(kernels.splits(group.B_t.shape[1]), *group.B_t.shape)

    def prepare(self) -> None:
        group = self.group
        if self.A is not group.A:
            self.A.copy_(group.A)
        scale = self.scaling if group.c is None else (group.c * self.scaling)[:, None]
        torch.mul(group.B_t, scale, out=self.B_t)

    def finish(self) -> None:
        group = self.group
        grad_A, grad_B_t, grad_c = group.take_gradients()
        if len(self.grad_A) > 1:
            self.kernels.collect(self.grad_A, grad_A)
        if group.c is None or grad_c is None:
            self.kernels.collect(self.grad_up, grad_B_t, self.scaling)
        else:
            self.kernels.collect_gated(self.grad_up, group.B_t, group.c, grad_B_t, grad_c, self.scaling)


class LeanProjection:
    """One projection within lean passes; called with `x`, ``(..., d_in)``, gives what the layer gives, up to rounding.

    It knows nothing of the pass that it belongs to: a cycle would keep all of it in memory long after ranks have
    changed.

    Attributes:
        A, B_t: rows of this projection, in the precision of the arithmetic, gate and scale in `B_t`.
        grad_A, grad_up: partial sums of gradients, ``(splits, r, d)``.
    """

    def __init__(
        self,
        kernels: Kernels,
        inputs: _Inputs,
        index: int,
        layer: AdaptedProjection,
        A: torch.Tensor,
        B_t: torch.Tensor,
        grad_A: torch.Tensor,
        grad_up: torch.Tensor,
    ) -> None:
        self.kernels, self.inputs, self.index, self.layer = kernels, inputs, index, layer
        self.A, self.B_t, self.grad_A, self.grad_up = A, B_t, grad_A, grad_up
        self._base: list[tuple[int, int]] = []

    def follow_base(self) -> bool:
        """Takes over the base's weights if they are others than before; False where they train, which only autograd's
        own way knows.

        A frozen base is copied once: its copy in the arithmetic's precision serves all passes. (As for autograd, writes
        through ``.data`` go unnoticed.)
        """
        base = self.layer.base
        parameters = [parameter for parameter in (base.weight, base.bias) if isinstance(parameter, torch.Tensor)]
        if any(parameter.requires_grad for parameter in parameters):
            return False
        present = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if present != self._base:
            weight, bias = weight_of(base).detach(), self.layer.bias
            self.weight = weight.to(self.inputs.dtype)
            self.bias = None if bias is None else bias.detach().to(self.inputs.dtype)
            self._base = present
        return True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        y: torch.Tensor = _Adapted.apply(x, layer.A, layer.B, layer.c, self)  # type: ignore[no-untyped-call]
        # Shaped here, not in the function: autograd refuses in-place changes of a view that a function returns, and
        # some models make them.
        return y.view(*x.shape[:-1], y.shape[-1])

    def drop(self, x: torch.Tensor) -> object:
        layer = self.layer
        return self.kernels.drop(x, layer.dropout, self.index) if layer.dropout and layer.training else None


class _Adapted(torch.autograd.Function):
    """From `x`, ``(..., d_in)``, to rows, ``(N, d_out)``.

    `A`, `B` and `c` are arguments so that the output requires a gradient; theirs are added in place, none is returned.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, A: torch.Tensor, B: torch.Tensor, c: torch.Tensor | None, lean: LeanProjection
    ) -> torch.Tensor:
        kernels = lean.kernels
        rows = lean.inputs.cast(x).reshape(-1, x.shape[-1]).contiguous()  # kernels read one row after the other
        drop = lean.drop(rows)
        u = kernels.down(rows, lean.A, drop)
        # Outside autocast a layer answers in the type of its input, whatever the factors are in.
        dtype = rows.dtype if torch.is_autocast_enabled(x.device.type) else x.dtype
        y = kernels.up(F.linear(rows, lean.weight, lean.bias), u, lean.B_t, None, dtype)
        ctx.save_for_backward(rows, u)
        ctx.lean, ctx.drop, ctx.shape, ctx.dtype = lean, drop, x.shape, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        lean: LeanProjection = ctx.lean
        if lean.layer.lean is not lean:
            raise RuntimeError(
                "backward came after the end of its training pass; call it within `with method.training_pass():`"
            )
        kernels, drop = lean.kernels, ctx.drop
        rows, u = ctx.saved_tensors
        dy = gradient.to(rows.dtype).contiguous()
        v = kernels.down(dy, lean.B_t, None)
        kernels.outer(lean.grad_up, u, dy, None)
        kernels.outer(lean.grad_A, v, rows, drop)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = kernels.up(dy @ lean.weight, v, lean.A, drop, ctx.dtype).view(ctx.shape)
        return dx, None, None, None, None
