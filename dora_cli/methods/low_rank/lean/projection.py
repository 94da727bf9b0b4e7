"""One projection of a training pass: its frozen map and the products of `kernels`, in one autograd function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch

from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.arithmetic.kernels import Kernels, activate
from dora_cli.methods.low_rank.lean.branches import Branches
from dora_cli.methods.low_rank.protocols import Layer
from dora_cli.methods.low_rank.same_input.readers import Readers

AFTER_THE_END = "backward came after the end of its training pass; call it within `with method.training_pass():`"


class Inputs:
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


class Part(NamedTuple):
    """One projection's part of what its group shares.

    Attributes:
        A, B_t: tied components first, gate and scale in `B_t`.
        grad_A, grad_up: partial sums of gradients, ``(splits, r, d)``; None for what does not train.
    """

    A: Factor
    B_t: Factor
    grad_A: torch.Tensor | None
    grad_up: torch.Tensor | None


class Joined(Protocol):
    """Several projections that are computed as one."""

    def output_of(self, lean: LeanProjection, x: torch.Tensor) -> torch.Tensor | None:
        """What `lean`, one of them, gives for `x`; None where it has to compute for itself."""


def alone() -> None:
    """Joined with no other projection."""


class LeanProjection:
    """One projection within lean passes; called with `x`, ``(..., d_in)``, gives what the layer gives, up to rounding.

    It knows nothing of the pass that it belongs to: a cycle would keep all of it in memory long after ranks have
    changed.
    """

    def __init__(
        self, kernels: Kernels, inputs: Inputs, branches: Branches, index: int, layer: Layer, part: Part
    ) -> None:
        self.kernels, self.inputs, self.branches, self.index, self.layer = kernels, inputs, branches, index, layer
        self.A, self.B_t, self.grad_A, self.grad_up = part
        self.chunks, self.tied = layer.chunks, layer.tied
        self._dropout = layer.dropout if layer.rank else 0.0
        self._factors = [factor for factor in (layer.A, layer.B, layer.c) if factor is not None]
        self.trains: torch.Tensor | None = None  # one of those that do, in this pass
        self.together: Callable[[], Joined | None] = alone  # with others that read the same input, or across a GELU
        self.readers: Readers | None = None  # all that do in the model, once they are found and may be joined
        self._base: tuple[int, ...] = ()
        # of the noise on its weight, where there is some: whose draw there is, how strong, and how a weight without a
        # copy is read with it
        self.turn = 0
        self.deviations: torch.Tensor | None = None
        self.read: Callable[[], torch.Tensor] | None = None

    def follow_base(self) -> bool:
        """Takes over the base's weights if they are others than before; False where they train, which only autograd's
        own way knows.

        A frozen base is copied once: its copy in the arithmetic's precision serves all passes. (As for autograd, writes
        through ``.data`` go unnoticed.)
        """
        base = self.layer.base
        own, bias = cast("torch.Tensor", base.weight), cast("torch.Tensor | None", base.bias)
        if own.requires_grad or (bias is not None and bias.requires_grad):
            return False
        present = own.data_ptr(), own._version, *(() if bias is None else (bias.data_ptr(), bias._version))
        if present != self._base:
            weight = weight_of(base).detach()
            self.weight = weight.to(self.inputs.dtype)
            self._across = self.weight.T
            self.copied, self.turn, self.read = self.weight is not weight, 0, None
            self.bias = None if bias is None else bias.detach().to(self.inputs.dtype)
            self._base = present
        self.trains = next((factor for factor in self._factors if factor.requires_grad), None)
        return True

    def move_weight(self, room: torch.Tensor) -> None:
        """Has the copy of the weight in `room`, ``(d_out, d_in)``, from here on."""
        self.weight = room.copy_(self.weight)
        self._across = room.T

    def calm(self) -> None:
        """Without noise from here on."""
        if self.turn and self.copied:
            self.weight.copy_(weight_of(self.layer.base).detach())
        self.turn, self.read = 0, None

    def present(self) -> torch.Tensor:
        """The weight, with the step's noise where there is some; it may be the memory of the next one too."""
        return self.weight if self.read is None else self.read()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        # what a compiler traces is computed alone, in one graph; what several share breaks it, and plain operations
        # that write into memory of several were traced to wrong gradients
        together = None if torch.compiler.is_compiling() else self.together()
        if together is not None and (found := together.output_of(self, x)) is not None:
            return found
        y: torch.Tensor = _Adapted.apply(x, self.trains, self)  # type: ignore[no-untyped-call]
        return y

    @property
    def dtype(self) -> torch.dtype:
        """That of the arithmetic."""
        return self.inputs.dtype

    @property
    def width(self) -> int:
        """Columns of what it gives."""
        return self.weight.shape[0]

    def answers_in_its_own(self, x: torch.Tensor) -> bool:
        """Whether what it gives for `x` is of the type of the arithmetic."""
        return x.dtype == self.dtype or torch.is_autocast_enabled(x.device.type)

    def drop(self, x: torch.Tensor) -> object:
        drops = self._dropout and self.layer.training
        return self.kernels.drop(x, self._dropout, self.index) if drops else None

    @property
    def keeps_rows(self) -> bool:
        """Whether `differentiate` reads the rows that `map` was given."""
        return self.grad_A is not None

    def map(
        self,
        rows: torch.Tensor,
        drop: object,
        lead: Sequence[int],
        dtype: torch.dtype,
        gelu: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """From ``(N, d_in)``, one row after the other in memory, to ``(*lead, d_out)`` in `dtype`, no view; and ``u``,
        ``(N, r)``, where `differentiate` wants it.

        Args:
            gelu: where the GELU of the output is written too, ``(N, d_out)``.
        """
        u = self.kernels.down(rows, self.A, drop, chunks=self.chunks, tied=self.tied) if self.A.rank else None
        across = self._across if self.read is None else self.present().T
        y = torch.empty((*lead, across.shape[1]), dtype=dtype, device=rows.device)
        out = y.view(rows.shape[0], across.shape[1])
        base = out if dtype == rows.dtype else torch.empty_like(out, dtype=rows.dtype)
        if self.bias is None:
            torch.mm(rows, across, out=base)
        else:
            torch.addmm(self.bias, rows, across, out=base)
        if u is None:
            if base is not out:
                out.copy_(base)
            activate(out, gelu, None)
            return y, None
        self.kernels.up(base, u, self.B_t, None, out, chunks=self.chunks, gelu=gelu)
        needs_u = self.grad_up is not None or self.layer.watch is not None
        return y, u if needs_u else None

    def differentiate(
        self,
        dy: torch.Tensor,
        rows: torch.Tensor | None,
        u: torch.Tensor | None,
        drop: object,
        lead: Sequence[int],
        dtype: torch.dtype | None,
        gelu_of: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Adds the gradients of the factors where they belong, and gives that of the rows, ``(N, d_in)``.

        Args:
            dy: of what `map` gave, ``(N, d_out)``.
            rows: what `map` was given; None where it need not be kept.
            u: what `map` gave.
            drop: of the same call.
            lead: the dimensions that `N` rows stand for.
            dtype: of the gradient; None where nobody wants it.
            gelu_of: what the rows are the GELU of, as they are; then the gradient is that of this.
        """
        if self.layer.lean is not self:
            raise RuntimeError(AFTER_THE_END)
        kernels, chunks, tied, watch = self.kernels, self.chunks, self.tied, self.layer.watch
        dy = dy.to(self.weight.dtype).contiguous()
        if not self.B_t.rank:
            if dtype is None:
                return None
            dx = torch.mm(dy, self.present()).to(dtype)
            activate(dx, None, gelu_of)
            return dx
        v = kernels.down(dy, self.B_t, None, chunks=chunks)
        with self.branches.sums(dy, rows, drop, u, v):
            if self.grad_up is not None:
                assert u is not None
                kernels.outer(self.grad_up, u[:, tied:] if tied else u, dy, None, chunks=chunks)
            if self.grad_A is not None:
                assert rows is not None
                kernels.outer(self.grad_A, v[:, tied:] if tied else v, rows, drop, chunks=chunks)
        base = None if dtype is None else torch.mm(dy, self.present())
        if watch is not None:
            assert u is not None
            shape = (*lead, self.A.rank - tied)
            watch(u[:, tied:].view(shape), v[:, tied:].view(shape))
        if base is None:
            return None
        dx = base if base.dtype == dtype else torch.empty_like(base, dtype=dtype)
        kernels.up(base, v, self.A, drop, dx, chunks=chunks, tied=tied, gelu_of=gelu_of)
        return dx


class _Adapted(torch.autograd.Function):
    """From `x`, ``(..., d_in)``, to ``(..., d_out)``.

    One of the factors that train is an argument so that the output requires a gradient; their own are added in place,
    none is returned. The output is no view: autograd refuses in-place changes of a view that a function returns, and
    some models make them.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, trains: torch.Tensor | None, lean: LeanProjection) -> torch.Tensor:
        rows = lean.inputs.cast(x).reshape(-1, x.shape[-1]).contiguous()  # kernels read one row after the other
        drop = lean.drop(rows)
        # Outside autocast a layer answers in the type of its input, whatever the factors are in.
        dtype = rows.dtype if lean.answers_in_its_own(x) else x.dtype
        y, u = lean.map(rows, drop, x.shape[:-1], dtype)
        ctx.save_for_backward(rows if lean.keeps_rows else None, u)
        ctx.lean, ctx.drop, ctx.shape, ctx.dtype = lean, drop, x.shape, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        lean: LeanProjection = ctx.lean
        rows, u = ctx.saved_tensors
        dtype = ctx.dtype if ctx.needs_input_grad[0] else None
        dx = lean.differentiate(gradient.reshape(-1, gradient.shape[-1]), rows, u, ctx.drop, ctx.shape[:-1], dtype)
        return None if dx is None else dx.view(ctx.shape), None, None
