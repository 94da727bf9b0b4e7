"""A training pass over a model with bottleneck adapters, with as little work as it takes.

Per pass, not per adapter: one copy of all tensors in the precision of the arithmetic, one sum of all their gradients
into those of the parameters. Per adapter: one autograd function, which saves what the adapter reads and what is in the
bottleneck, and adds gradients where they belong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dora_cli.methods.bottleneck.kernels import Kernels, TorchKernels, kernels_for
from dora_cli.methods.bottleneck.layer import Activation, Bottleneck, Tensors


class LeanPass:
    """What the passes of a training share.

    Args:
        layers: all adapters, on one device.
        dtype: of the arithmetic: autocast's, or that of the adapters where there is none.
    """

    def __init__(self, layers: Sequence[Bottleneck], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.parameters: list[nn.Parameter] = [tensor for layer in layers for tensor in layer.tensors().values()]
        first = self.parameters[0]
        bottleneck, width = layers[0].W_down.shape
        self.kernels: Kernels = kernels_for(first.device, dtype, width, bottleneck)
        self._own = first.dtype == dtype
        self._sizes = [parameter.numel() for parameter in self.parameters]
        length = sum(self._sizes)
        self._flat = first.new_empty(0 if self._own else length)
        self._copies = self._flat.to(dtype)
        self._sums = first.new_empty(self.kernels.splits, length, dtype=None if self.kernels.exact else dtype)

    @property
    def holds(self) -> bool:
        """Whether the layers still have the parameters it was made for, where they were."""
        present = [tensor for layer in self.layers for tensor in layer.tensors().values()]
        same = all(new is old for new, old in zip(present, self.parameters, strict=True))
        return same and all(tensor.device == self._flat.device for tensor in present)

    @contextmanager
    def around(self) -> Iterator[None]:
        """One forward and backward pass; the parameters' gradients are complete when it ends."""
        with torch.no_grad():
            self._begin()
        try:
            yield
        finally:
            for layer in self.layers:
                layer.lean = None
        with torch.no_grad():
            self._finish()

    def _begin(self) -> None:
        if self._own:
            copies: Sequence[torch.Tensor] = [parameter.detach() for parameter in self.parameters]
        else:
            torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters], out=self._flat)
            self._copies.copy_(self._flat)
            copies = self._shaped(self._copies)
        self._sums.zero_()
        sums = torch.split(self._sums, self._sizes, dim=1)
        for index, layer in enumerate(self.layers):
            part = slice(4 * index, 4 * index + 4)
            layer.lean = LeanAdapter(self.kernels, layer, Tensors(*copies[part]), Tensors(*sums[part]))

    def _finish(self) -> None:
        total = self._sums.sum(0, dtype=self._flat.dtype)
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        torch._foreach_add_(gradients, self._shaped(total))

    def _shaped(self, flat: torch.Tensor) -> list[torch.Tensor]:
        parts = torch.split(flat, self._sizes)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


class LeanAdapter:
    """One adapter within a pass; called with what its base gives.

    Attributes:
        copies: its tensors in the precision of the arithmetic.
        sums: where their gradients are added.
    """

    def __init__(self, kernels: Kernels, layer: Bottleneck, copies: Tensors, sums: Tensors) -> None:
        self.kernels, self.layer, self.copies, self.sums = kernels, layer, copies, sums

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        rows = Inserted.apply(y, *layer.tensors().values(), layer.activation, self)  # type: ignore[no-untyped-call]
        # Shaped here, not in the function: autograd refuses in-place changes of a view that a function returns, and
        # some models make them.
        out: torch.Tensor = rows.view(y.shape)
        return out


class Inserted(torch.autograd.Function):
    """What `Bottleneck.forward` adds to `y`, ``(..., d)``, and `y`; as rows, ``(N, d)``, in the type of `y`.

    Within a pass the tensors' gradients are added in place and none is returned; without one (`lean` is None) the
    arithmetic is in the type of the tensors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: torch.Tensor,
        W_down: torch.Tensor,
        b_down: torch.Tensor,
        W_up: torch.Tensor,
        b_up: torch.Tensor,
        activation: Activation,
        lean: LeanAdapter | None,
    ) -> torch.Tensor:
        own = Tensors(W_down, b_down, W_up, b_up) if lean is None else lean.copies
        kernels = TorchKernels() if lean is None else lean.kernels
        given = y.reshape(-1, y.shape[-1]).contiguous()  # kernels read one row after the other
        rows = given.to(own.W_down.dtype)
        with torch.autocast(y.device.type, enabled=False):
            z, u = kernels.enter(rows, own, activation)
            out = kernels.leave(given, u, own)
        ctx.save_for_backward(rows, z, u, own.W_down, own.W_up)
        ctx.activation, ctx.lean, ctx.kernels, ctx.shape = activation, lean, kernels, y.shape
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        lean: LeanAdapter | None = ctx.lean
        if lean is not None and lean.layer.lean is not lean:
            raise RuntimeError(
                "backward came after the end of its training pass; call it within `with method.training_pass():`"
            )
        kernels: Kernels = ctx.kernels
        rows, z, u, W_down, W_up = ctx.saved_tensors
        given = gradient.contiguous()
        with torch.autocast(gradient.device.type, enabled=False):
            dy = given.to(rows.dtype)
            dz = kernels.back_in(dy, z, W_up, ctx.activation)
            dx = kernels.back_out(given, dz, W_down).view(ctx.shape) if ctx.needs_input_grad[0] else None
            if lean is None:
                return dx, dz.T @ rows, dz.sum(0), dy.T @ u, dy.sum(0), None, None
            kernels.collect(lean.sums, rows, u, dy, dz)
        return dx, None, None, None, None, None, None
