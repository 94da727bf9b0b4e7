"""Two projections with a GELU between them, in a compiled block: the first writes the GELU beside its output, and the
second gives the gradient of that output itself.

A GELU that stands alone reads its input and writes as much, and its backward pass reads two such tensors and writes a
third. Feed-forward layers are wide, so in a block these are as large as all others together.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.low_rank.seam import Seam, projection_backward, seam_of


class GeluPair:
    """Two seams of one block and the module between them, between `begin` and `end`, a pass forward and backward.

    What else reads the output of the first, or its GELU, has gradients as ever; hooks on the GELU see none of what the
    second one gives.

    Args:
        first: whose output `gelu` reads.
        gelu: a module that computes GELU as `torch.nn.functional.gelu` does.
        second: which reads what it gives, of the type of the first.
    """

    def __init__(self, first: Seam, gelu: nn.Module, second: Seam) -> None:
        self._seams = ref(first), ref(second)  # no cycle
        self._gelu = gelu
        self._y: torch.Tensor | None = None
        self._activated: torch.Tensor | None = None
        self._state: tuple[int, bool] | None = None
        self._given = False  # whether the GELU has been: who asks again may have changed it

    def begin(self) -> None:
        """Before a pass, after its seams have begun."""
        for place, seam in enumerate(self._seams):
            found = seam()
            assert found is not None
            found.joint, found.place = self, place
        self._gelu.forward = self.activate  # type: ignore[method-assign, assignment]

    def end(self) -> None:
        """After a pass, also one that failed; a `forward` that somebody has put there meanwhile stays theirs."""
        if vars(self._gelu).get("forward") == self.activate:
            del self._gelu.forward
        self._y = self._activated = None

    def output_of(self, place: int, x: torch.Tensor) -> torch.Tensor | None:
        """What the seam at `place` gives for `x`; None where it has to be computed alone, as the second has to for
        another tensor than the GELU as it was, or in another mode of gradients.
        """
        seam = self._seams[place]()
        assert seam is not None
        y, activated = self._y, self._activated
        self._y = self._activated = None
        if place == 0:
            if x.dtype != seam.dtype and not torch.is_autocast_enabled(x.device.type):
                return None  # it answers in the type of `x`
            made: torch.Tensor
            made, self._activated, _ = projection_gelu(x.to(seam.dtype), seam.number, seam.out_features)
            self._y, self._state, self._given = made, _state(made), False
            return made
        if y is None or activated is not x or self._state != _state(x):
            return None
        found: torch.Tensor = gelu_projection(x, y, seam.number, seam.out_features)[0]
        return found

    def activate(self, y: torch.Tensor) -> torch.Tensor:
        """The `forward` of the module."""
        if self._activated is None or self._given or self._y is not y or self._state != _state(y):
            return F.gelu(y)
        self._state, self._given = _state(self._activated), True
        return self._activated


def can_be_pair(first: Seam, gelu: nn.Module, second: Seam) -> bool:
    """Whether these, which have begun, compute alike, and nobody else sees to what one of them gives."""
    alone = first.joint is None and second.joint is None
    return alone and first.dtype == second.dtype and "forward" not in vars(gelu)


def _state(x: torch.Tensor) -> tuple[int, bool]:
    """What has to be the same for `x` to be what it was; traced code knows no versions, see `Joint.output_of`."""
    unknown = torch.compiler.is_compiling() or x.is_inference()
    return 0 if unknown else x._version, torch.is_grad_enabled()


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
