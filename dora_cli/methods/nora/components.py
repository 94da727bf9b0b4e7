"""Nested projections of a model, those of one shape together, as training passes take them: LoRAs of rank `r'`, folded
when a pass begins, whose gradients go back to the inner factors when it ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from dora_cli.methods.linear import swap_modules
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.lean.passes import Passes
from dora_cli.methods.low_rank.protocols import Rows
from dora_cli.methods.nora.layer import NestedProjection


class NestedAdapters:
    """Puts `layers` in the place of their bases in `model`, whose own parameters are frozen.

    Attributes:
        layers: by full path.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, NestedProjection]) -> None:
        self.layers, self._passes = dict(layers), Passes(model)
        for layer in self.layers.values():
            layer.base.requires_grad_(False)
        swap_modules(model, {layer.base: layer for layer in self.layers.values()})
        self._groups = self._by_shape()

    def _by_shape(self) -> list[NestedComponents]:
        alike: dict[Hashable, list[NestedProjection]] = defaultdict(list)
        for layer in self.layers.values():  # by device and type too: a model may be spread over several devices
            alike[layer.out_features, layer.in_features, layer.A.dtype, layer.A.device].append(layer)
        return [NestedComponents(layers) for layers in alike.values()]

    def groups(self) -> list[NestedComponents]:
        """All projections by shape; the model may have been moved or copied since they were put together."""
        if not all(group.holds for group in self._groups):
            self._groups = self._by_shape()
            self._passes.forget()
        return self._groups

    def parameters(self) -> list[nn.Parameter]:
        """The inner factors, layer by layer."""
        return [parameter for layer in self.layers.values() for parameter in layer.factors().values()]

    def training_pass(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        """See `Passes.around`."""
        return self._passes.around(self.groups(), dtype)

    def release(self) -> None:
        """Frees the training pass's copies of base weights."""
        self._passes.forget()


class NestedComponents:
    """What `LeanPass` asks of the components of all projections of one weight shape (see `Group`).

    The inner factors lie as `Components` has them, the outer ones in two tensors of which the layers' are views. The
    pass computes with their products, ``A A_o`` and ``B_o B``, in `A` and `B_t`. So a step costs what one of LoRA of
    rank `r'` does, and a few small products for all projections of a shape together.

    Attributes:
        layers: the projections, in the order of their rows.
        starts: the first row of each.
        A: ``(R, d_in)``, of the pass that is under way.
        B_t: ``(R, d_out)``, likewise.
    """

    c: None = None  # no gates

    def __init__(self, layers: Sequence[NestedProjection]) -> None:
        self.layers = list(layers)
        self._inner = Components(layers)
        self.starts = self._inner.starts
        with torch.no_grad():
            self._A_o = torch.stack([layer.A_o for layer in layers])  # (n, r, d_in)
            self._B_o_t = torch.stack([layer.B_o.T for layer in layers])  # (n, r, d_out)
        for layer, A_o, B_o_t in zip(self.layers, self._A_o, self._B_o_t, strict=True):
            layer.A_o, layer.B_o = A_o, B_o_t.T
        inner = self._inner.A
        self.A = inner.new_empty(len(inner), self._A_o.shape[-1])
        self.B_t = inner.new_empty(len(inner), self._B_o_t.shape[-1])
        self._gradients: Rows = torch.zeros_like(self.A), torch.zeros_like(self.B_t), None

    @property
    def scaling(self) -> float:
        return self._inner.scaling

    @property
    def holds(self) -> bool:
        return self._inner.holds and all(
            layer.A_o.data_ptr() == A_o.data_ptr() and layer.B_o.data_ptr() == B_o_t.data_ptr()
            for layer, A_o, B_o_t in zip(self.layers, self._A_o, self._B_o_t, strict=True)
        )

    def take_gradients(self) -> Rows:
        """Those of the products; the inner parameters' own are there, too."""
        self._inner.take_gradients()
        return self._gradients

    def begin_pass(self) -> None:
        """Folds, and forgets the gradients of a pass that failed."""
        for gradient in self._gradients[:2]:
            gradient.zero_()
        torch.bmm(self._by_layer(self._inner.A), self._A_o, out=self._by_layer(self.A))
        torch.bmm(self._by_layer(self._inner.B_t), self._B_o_t, out=self._by_layer(self.B_t))

    def end_pass(self) -> None:
        """Adds the gradients of the products to those of the inner factors: ``dA += d(A A_o) A_o^T``, ``dB += B_o^T
        d(B_o B)``.
        """
        grad_A, grad_B_t, _ = self._inner.take_gradients()
        of_A, of_B_t, _ = self._gradients
        self._by_layer(grad_A).baddbmm_(self._by_layer(of_A), self._A_o.mT)
        self._by_layer(grad_B_t).baddbmm_(self._by_layer(of_B_t), self._B_o_t.mT)

    def _by_layer(self, rows: torch.Tensor) -> torch.Tensor:
        """``(R, d)`` as ``(n, r', d)``."""
        return rows.view(len(self.layers), -1, rows.shape[-1])
