"""Where the factors of many projections live: a row per component, so that one kernel works on all projections of a
shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dora_cli.methods.low_rank.layout import Layout
from dora_cli.methods.low_rank.protocols import Layer, Rows


class Components:
    """The components of all projections of one weight shape; row `i` of every tensor belongs to the same component.

    The layers' parameters are views: of a layer whose components begin at row `f`, `A` is ``A[f : f + r]``, `B` is the
    transpose of ``B_t[f : f + r]``, `c` is ``c[f : f + r]``. Their gradients are views of `grad_A`, `grad_B_t` and
    `grad_c` in the same way, once `take_gradients` was called; what is frozen has none. Either all layers have gates or
    none has. Tied components are not among the rows.

    Attributes:
        layers: the projections, in the order of their rows; ranks may differ.
        starts: the first row of each.
        layout: which rows are of which.
        A: ``(R, d_in)``; of layers in chunks ``(R, d_in / chunks)``, and `B_t` likewise.
        B_t: ``(R, d_out)``.
        c: ``(R,)``; None without gates.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)
        ranks = [layer.rank for layer in layers]
        self.starts = [sum(ranks[:index]) for index in range(len(ranks))]
        self.layout = Layout(ranks, layers[0].A.device)
        gated = layers[0].c is not None
        assert all((layer.c is not None) == gated for layer in layers), "all layers have gates, or none has"
        with torch.no_grad():
            self.A = torch.cat([layer.A for layer in layers])
            self.B_t = torch.cat([layer.B.T for layer in layers])
            self.c = torch.cat([_gates(layer) for layer in layers]) if gated else None
        for parameter, view in self._views((self.A, self.B_t, self.c)):
            parameter.data = view
        self._rowless = [layer for layer in self.layers if not layer.rank]
        self._addresses = self._present()
        self._gradients: Rows | None = None
        self._gradient_views: list[tuple[nn.Parameter, torch.Tensor]] = []

    def _views(self, rows: Rows) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Every parameter of the layers with its part of `rows`, in the parameter's own shape."""
        A, B_t, c = rows
        views = []
        for start, layer in zip(self.starts, self.layers, strict=True):
            part = slice(start, start + layer.rank)
            if layer.rank:
                views += [(layer.A, A[part]), (layer.B, B_t[part].T)]
            if c is not None:
                views.append((_gates(layer), c[part]))
        return views

    @property
    def gates(self) -> torch.Tensor:
        """``(R,)``, of layers that have gates."""
        assert self.c is not None, "these layers have no gates"
        return self.c

    @property
    def scaling(self) -> float:
        """The scale `s` of all layers."""
        (scaling,) = {layer.scaling for layer in self.layers}
        return scaling

    @property
    def rank(self) -> int:
        """Components of a projection, where all have the same number."""
        rank = self.layers[0].rank
        assert len(self.A) == rank * len(self.layers), "the projections have different ranks"
        return rank

    @property
    def holds(self) -> bool:
        """Whether the layers' parameters are still views of these tensors; moving or copying the model parts them."""
        # By addresses, and of the parameters that the layers have now: it is asked several times a step.
        if self._present() != self._addresses:
            return False
        here = self.A.device, self.A.dtype
        return all((layer.A.device, layer.A.dtype) == here for layer in self._rowless)  # which have no address

    def _present(self) -> list[int]:
        """Where the parameters of the layers are."""
        return [
            factor.data_ptr() for layer in self.layers for factor in (layer.A, layer.B, layer.c) if factor is not None
        ]

    def begin_pass(self) -> None:
        """Nothing: what the pass computes with is what trains."""

    def end_pass(self) -> None:
        """Nothing, likewise."""

    @torch.no_grad()
    def take_gradients(self) -> Rows:
        """Gradients of `A`, `B_t` and `c`, row by row; the parameters' own gradients are views of them from here on.

        A gradient that is elsewhere is copied here; one that is missing counts as zero.
        """
        if self._gradients is None:
            c = None if self.c is None else torch.zeros_like(self.c)
            self._gradients = torch.zeros_like(self.A), torch.zeros_like(self.B_t), c
            views = self._views(self._gradients)
            self._gradient_views = [(parameter, view) for parameter, view in views if parameter.requires_grad]
        elsewhere = [(parameter, view) for parameter, view in self._gradient_views if parameter.grad is not view]
        given = [(view, parameter.grad) for parameter, view in elsewhere if parameter.grad is not None]
        missing = [view for parameter, view in elsewhere if parameter.grad is None]
        if given:
            torch._foreach_copy_([view for view, _ in given], [gradient for _, gradient in given])
        if missing:
            torch._foreach_zero_(missing)
        for parameter, view in elsewhere:
            parameter.grad = view
        return self._gradients


def _gates(layer: Layer) -> nn.Parameter:
    assert layer.c is not None
    return layer.c
