"""A pair across a GELU as a compiled block sees it: two operators, see `seam`."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import nn

from dora_cli.methods.low_rank.lean.gelu_pair import GeluPair, can_be_within
from dora_cli.methods.low_rank.lean.seam import Seam, projection_backward, seam_of


class SeamPair:
    """Two seams and the module between them; see `GeluPair`."""

    def __init__(self, first: Seam, gelu: nn.Module, second: Seam) -> None:
        self._sides = _Side(first), _Side(second)
        self._pair = GeluPair(self._sides[0], gelu, self._sides[1])

    def begin(self) -> None:
        """Before a pass, after its seams have begun."""
        self._pair.begin()
        for place, side in enumerate(self._sides):
            seam = side.seam()
            assert seam is not None
            seam.joint, seam.place, side.dtype = self._pair, place, seam.dtype

    def end(self) -> None:
        """After a pass, also one that failed."""
        self._pair.end()


class _Side:
    """One of the seams."""

    def __init__(self, seam: Seam) -> None:
        self.seam, self.dtype = ref(seam), seam.dtype  # no cycle
        self._number, self._width = seam.number, seam.out_features

    def with_gelu(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        if x.dtype != self.dtype and not torch.is_autocast_enabled(x.device.type):
            return None  # it answers in the type of `x`
        y, activated, _ = projection_gelu(x.to(self.dtype), self._number, self._width)
        return y, activated

    def of_gelu(self, activated: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = gelu_projection(activated, y, self._number, self._width)[0]
        return found


def can_be_pair(first: Seam, gelu: nn.Module, second: Seam) -> bool:
    """Whether these, which have begun, compute alike, and nobody else sees to what one of them gives."""
    alone = first.joint is None and second.joint is None
    return alone and first.dtype == second.dtype and can_be_within(gelu)


@torch.library.custom_op("dora::projection_gelu", mutates_args=())
def projection_gelu(
    x: torch.Tensor, number: torch.Tensor, d_out: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the seam of this `number` makes of `x`, ``(..., d_out)``, its GELU, and which of its calls this is."""
    gelu = x.new_empty(*x.shape[:-1], d_out)
    y, call = seam_of(number).map(x, gelu)
    return y, gelu, torch.tensor(call)


@torch.library.custom_op("dora::gelu_projection", mutates_args=())
def gelu_projection(
    activated: torch.Tensor, y: torch.Tensor, number: torch.Tensor, d_out: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the seam of this `number` makes of `activated`, the GELU of `y`, and which of its calls this is."""
    out, call = seam_of(number).map(activated)
    return out, torch.tensor(call)


@torch.library.custom_op("dora::gelu_projection_backward", mutates_args=())
def gelu_projection_backward(
    gradient: torch.Tensor, activated: torch.Tensor, y: torch.Tensor, number: torch.Tensor, call: torch.Tensor
) -> torch.Tensor:
    """The gradient of `y`; those of the factors are added where they belong."""
    return seam_of(number).differentiate(gradient, activated, int(call), y)


@projection_gelu.register_fake
def _(x: torch.Tensor, number: torch.Tensor, d_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y = x.new_empty(*x.shape[:-1], d_out)
    return y, torch.empty_like(y), torch.empty((), dtype=torch.int64)


@gelu_projection.register_fake
def _(activated: torch.Tensor, y: torch.Tensor, number: torch.Tensor, d_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    return activated.new_empty(*activated.shape[:-1], d_out), torch.empty((), dtype=torch.int64)


@gelu_projection_backward.register_fake
def _(
    gradient: torch.Tensor, activated: torch.Tensor, y: torch.Tensor, number: torch.Tensor, call: torch.Tensor
) -> torch.Tensor:
    return y.new_empty(y.shape)


def _setup_first(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, number, _ = inputs
    y, _, call = output
    ctx.save_for_backward(x, y, number, call)
    ctx.set_materialize_grads(False)  # of the GELU nobody but the second projection may want any


def _backward_first(
    ctx: Any, dy: torch.Tensor | None, of_gelu: torch.Tensor | None, _: None
) -> tuple[torch.Tensor | None, None, None]:
    x, y, number, call = ctx.saved_tensors
    if of_gelu is not None:
        own = torch.ops.aten.gelu_backward(of_gelu, y)
        dy = own if dy is None else dy + own
    return None if dy is None else projection_backward(dy, x, number, call), None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    activated, y, number, _ = inputs
    ctx.save_for_backward(activated, y, number, output[1])


def _backward_second(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[None, torch.Tensor, None, None]:
    return None, gelu_projection_backward(gradient, *ctx.saved_tensors), None, None


projection_gelu.register_autograd(_backward_first, setup_context=_setup_first)
gelu_projection.register_autograd(_backward_second, setup_context=_setup_second)
