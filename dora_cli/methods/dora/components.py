"""Where the factors of many projections live: a row per component, so that one kernel works on all projections of a
shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dora_cli.methods.dora.layer import AdaptedProjection


class Components:
    """The components of all projections of one weight shape; row `i` of every tensor belongs to the same component.

    The layers' parameters are views: of a layer whose components begin at row `f`, `A` is ``A[f : f + r]``, `B` is the
    transpose of ``B_t[f : f + r]``, `c` is ``c[f : f + r]``. Their gradients are views of `grad_A`, `grad_B_t` and
    `grad_c` in the same way, once `take_gradients` was called.

    Attributes:
        layers: the projections, in the order of their rows; ranks may differ.
        starts: the first row of each.
        A: ``(R, d_in)``.
        B_t: ``(R, d_out)``.
        c: ``(R,)``.
    """

    def __init__(self, layers: Sequence[AdaptedProjection]) -> None:
        self.layers = list(layers)
        ranks = [layer.rank for layer in layers]
        self.starts = [sum(ranks[:index]) for index in range(len(ranks))]
        with torch.no_grad():
            self.A = torch.cat([layer.A for layer in layers])
            self.B_t = torch.cat([layer.B.T for layer in layers])
            self.c = torch.cat([layer.c for layer in layers])
        for layer, (A, B, c) in zip(self.layers, self._views(self.A, self.B_t, self.c), strict=True):
            layer.A.data, layer.B.data, layer.c.data = A, B, c
        self._gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._gradient_views: list[tuple[nn.Parameter, torch.Tensor]] = []

    def _views(
        self, A: torch.Tensor, B_t: torch.Tensor, c: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        slices = [slice(start, start + layer.rank) for start, layer in zip(self.starts, self.layers, strict=True)]
        return [(A[rows], B_t[rows].T, c[rows]) for rows in slices]

    @property
    def rank(self) -> int:
        """Components of a projection, where all have the same number."""
        rank = self.layers[0].rank
        assert len(self.c) == rank * len(self.layers), "the projections have different ranks"
        return rank

    @property
    def holds(self) -> bool:
        """Whether the layers' parameters are still views of these tensors; moving or copying the model parts them."""
        expected = (self.A.data_ptr(), self.B_t.data_ptr(), self.c.data_ptr())
        width_A, width_B = self.A.stride(0) * self.A.element_size(), self.B_t.stride(0) * self.B_t.element_size()
        size = self.c.element_size()
        return all(
            layer.A.data_ptr() == expected[0] + start * width_A
            and layer.B.data_ptr() == expected[1] + start * width_B
            and layer.c.data_ptr() == expected[2] + start * size
            for start, layer in zip(self.starts, self.layers, strict=True)
        )

    @torch.no_grad()
    def take_gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of `A`, `B_t` and `c`, row by row; the parameters' own gradients are views of them from here on.

        A gradient that is elsewhere is copied here; one that is missing counts as zero.
        """
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.A), torch.zeros_like(self.B_t), torch.zeros_like(self.c)
            self._gradient_views = [
                (parameter, view)
                for layer, views in zip(self.layers, self._views(*self._gradients), strict=True)
                for parameter, view in zip((layer.A, layer.B, layer.c), views, strict=True)
            ]
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
