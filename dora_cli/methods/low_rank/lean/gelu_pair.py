"""Two projections with a GELU between them: the first writes the GELU beside its output, and the second gives the
gradient of that output itself.

A GELU that stands alone reads its input and writes as much, and its backward pass reads two such tensors and writes a
third. Feed-forward layers are wide, so in a block these are as large as all others together.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F


class Side(Protocol):
    """A projection of a pair."""

    def with_gelu(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What it gives for `x`, and the GELU of that; None where it has to be computed alone."""

    def of_gelu(self, activated: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What it gives for `activated`, the GELU of `y`, with a gradient for `y`."""


class GeluPair:
    """Two projections of one block and the module between them, between `begin` and `end`, a pass forward and backward.

    What else reads the output of the first, or its GELU, has gradients as ever; so has a hook on the GELU. Who puts one
    there after the pass sees none of what the second one gives.

    Args:
        first: whose output `gelu` reads.
        gelu: a module that computes GELU as `torch.nn.functional.gelu` does.
        second: which reads what it gives, of the type of the first.
    """

    def __init__(self, first: Side, gelu: nn.Module, second: Side) -> None:
        self._first, self._gelu, self._second = first, gelu, second
        self._before: object = None
        self._y: torch.Tensor | None = None
        self._activated: torch.Tensor | None = None
        self._state: tuple[int, bool] | None = None
        self._given = False  # whether the GELU has been: who asks again may have changed it

    def begin(self) -> None:
        """Before a pass; `can_be_within` holds for the module."""
        self._before = vars(self._gelu).get("forward")
        self._gelu.forward = self.activate  # type: ignore[method-assign, assignment]

    def end(self) -> None:
        """After a pass, also one that failed; a `forward` that somebody has put there meanwhile stays theirs."""
        if vars(self._gelu).get("forward") == self.activate:
            del self._gelu.forward
            if self._before is not None:
                self._gelu.forward = self._before  # type: ignore[method-assign, assignment]
        self._before = self._y = self._activated = None

    def output_of(self, place: int, x: torch.Tensor) -> torch.Tensor | None:
        """What the first (0) or the second (1) gives for `x`; None where it has to be computed alone, as the second has
        to for another tensor than the GELU as it was, or in another mode of gradients.
        """
        y, activated = self._y, self._activated
        self._y = self._activated = None
        if place == 0:
            made = self._first.with_gelu(x)
            if made is None:
                return None
            self._y, self._activated = made
            self._state, self._given = _state(self._y), False
            return self._y
        if y is None or activated is not x or self._state != _state(x) or is_watched(x):
            return None
        return self._second.of_gelu(x, y)

    def activate(self, y: torch.Tensor) -> torch.Tensor:
        """The `forward` of the module."""
        if self._activated is None or self._given or self._y is not y or self._state != _state(y):
            return F.gelu(y)
        self._state, self._given = _state(self._activated), True
        return self._activated


def can_be_within(gelu: nn.Module) -> bool:
    """Whether the module may be that of a pair: it has its own `forward`, or that of another pair, which waits."""
    forward = vars(gelu).get("forward")
    return forward is None or isinstance(getattr(forward, "__self__", None), GeluPair)


def _state(x: torch.Tensor) -> tuple[int, bool]:
    """What has to be the same for `x` to be what it was; traced code knows no versions, see `seam.Joint.output_of`."""
    unknown = torch.compiler.is_compiling() or x.is_inference()
    return 0 if unknown else x._version, torch.is_grad_enabled()


def is_watched(x: torch.Tensor) -> bool:
    """Whether somebody wants the gradient of `x` itself; traced code has no hooks on what is within it."""
    return not torch.compiler.is_compiling() and (bool(x._backward_hooks) or x.retains_grad)
