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
from torch.nn import functional as F

from dora_cli.methods.bottleneck.layer import ACTIVATIONS, Activation, Bottleneck


class Tensors:
    """The four tensors of an adapter, or their gradients."""

    def __init__(self, W_down: torch.Tensor, b_down: torch.Tensor, W_up: torch.Tensor, b_up: torch.Tensor) -> None:
        self.W_down, self.b_down, self.W_up, self.b_up = W_down, b_down, W_up, b_up


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
        self._own = first.dtype == dtype
        length = 0 if self._own else sum(parameter.numel() for parameter in self.parameters)
        self._flat, self._sums = first.new_empty(length), first.new_empty(length)
        self._copies, self._gradients = self._flat.to(dtype), self._sums.to(dtype)

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
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._own:
            copies: Sequence[torch.Tensor] = [parameter.detach() for parameter in self.parameters]
            gradients: Sequence[torch.Tensor] = self._present_gradients()
        else:
            torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters], out=self._flat)
            self._copies.copy_(self._flat)
            self._gradients.zero_()
            copies, gradients = self._views(self._copies), self._views(self._gradients)
        for index, layer in enumerate(self.layers):
            part = slice(4 * index, 4 * index + 4)
            layer.lean = LeanAdapter(layer, Tensors(*copies[part]), Tensors(*gradients[part]))

    def _finish(self) -> None:
        if not self._own:
            self._sums.copy_(self._gradients)
            torch._foreach_add_(self._present_gradients(), self._views(self._sums))

    def _present_gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


class LeanAdapter:
    """One adapter within a pass; called with what its base gives.

    Attributes:
        copies: its tensors in the precision of the arithmetic.
        gradients: where theirs are added.
    """

    def __init__(self, layer: Bottleneck, copies: Tensors, gradients: Tensors) -> None:
        self.layer, self.copies, self.gradients = layer, copies, gradients

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
        given = y.reshape(-1, y.shape[-1])
        rows = given.to(own.W_down.dtype)
        with torch.autocast(y.device.type, enabled=False):
            z = F.linear(rows, own.W_down, own.b_down)
            u = ACTIVATIONS[activation](z)
            out = F.linear(u, own.W_up, own.b_up)
        out = out.add_(given) if out.dtype == given.dtype else (given + out).to(given.dtype)
        ctx.save_for_backward(rows, z, u, own.W_down, own.W_up)
        ctx.activation, ctx.lean, ctx.shape = activation, lean, y.shape
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        lean: LeanAdapter | None = ctx.lean
        if lean is not None and lean.layer.lean is not lean:
            raise RuntimeError(
                "backward came after the end of its training pass; call it within `with method.training_pass():`"
            )
        rows, z, u, W_down, W_up = ctx.saved_tensors
        given = gradient.reshape(-1, gradient.shape[-1])
        with torch.autocast(gradient.device.type, enabled=False):
            dy = given.to(rows.dtype)
            dz = _through(ctx.activation, dy @ W_up, z)
            dx = None
            if ctx.needs_input_grad[0]:
                dx = torch.addmm(dy, dz, W_down) if dy is given else given + dz @ W_down
                dx = dx.to(given.dtype).view(ctx.shape)
            if lean is None:
                return dx, dz.T @ rows, dz.sum(0), dy.T @ u, dy.sum(0), None, None
            sums = lean.gradients
            sums.W_down.addmm_(dz.T, rows)
            sums.b_down.add_(dz.sum(0))
            sums.W_up.addmm_(dy.T, u)
            sums.b_up.add_(dy.sum(0))
        return dx, None, None, None, None, None, None


def _through(activation: Activation, gradient: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The gradient for `z` of that for ``f(z)``."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(gradient, z, 0)
    return torch.ops.aten.gelu_backward(gradient, z, approximate="tanh")
