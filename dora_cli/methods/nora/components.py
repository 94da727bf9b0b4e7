"""Nested projections of one shape as a training pass takes them: LoRAs of rank `r'`, folded at its begin, whose
gradients go back to the inner factors at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dora_cli.methods.low_rank.components import Components, Rows
from dora_cli.methods.nora.layer import NestedProjection


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
        """Those of the products, zeros before a pass; the inner parameters' own are there, too."""
        self._inner.take_gradients()
        return self._gradients

    def begin_pass(self) -> None:
        """Folds."""
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
        of_A.zero_()
        of_B_t.zero_()

    def _by_layer(self, rows: torch.Tensor) -> torch.Tensor:
        """``(R, d)`` as ``(n, r', d)``."""
        return rows.view(len(self.layers), -1, rows.shape[-1])
