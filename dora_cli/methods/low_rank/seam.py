"""A projection as a compiled block sees it: one operator of PyTorch's own library, which a compiler calls and does not
look into.

What lies between two of them is the compiler's to fuse: the cast to the precision of the arithmetic, and the sum of the
gradients of projections that read the same input, included. Which projection is computed, of what rank, by which
kernels and with which dropout is read when the operator runs, from a number that the compiled code is given as a
tensor; so all blocks of a model run the same code, and ranks that change compile nothing anew.

Gradients of factors are added in place within the operator of the backward pass, as in every lean pass.
"""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.linear import is_transposed, shape_of, weight_of
from dora_cli.methods.low_rank.lean import AFTER_THE_END, LeanProjection

_numbers = count()
_seams: WeakValueDictionary[int, Seam] = WeakValueDictionary()


class Seam(nn.Module):
    """Stands in the place of a projection within one training pass.

    Either `inner` is a layer with a lean pass begun, whose input requires a gradient, else it is computed as it
    stands; or it is a frozen linear map.

    Args:
        inner: what is computed.
    """

    number: torch.Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        base = inner.base if _has_pass(inner) else inner
        assert isinstance(base, nn.Module)
        self.out_features, self.in_features = shape_of(base)
        self.transposed = is_transposed(base)
        self.dtype = torch.float32
        number = next(_numbers)
        self.number = torch.tensor(number)  # on the CPU, where the operator reads it without waiting for a device
        _seams[number] = self
        self._calls = count()
        self._kept: dict[int, tuple[object, torch.Tensor | None]] = {}
        self._base: tuple[Any, ...] = ()
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """The base weight, in the base's own storage order; some models ask for its type."""
        return self.inner.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        return self.inner.bias  # type: ignore[return-value]

    def begin(self, dtype: torch.dtype | None) -> None:
        """Before a pass; `dtype` is autocast's, None without."""
        lean = _lean(self.inner)
        if lean is not None:
            self.dtype = lean.dtype
            return
        self.dtype = self.weight.dtype if dtype is None else dtype
        self._follow_base()

    def _follow_base(self) -> None:
        """A frozen map is copied once, as those with components are."""
        weight, bias = self.weight, self.bias
        present = (self.dtype, weight.data_ptr(), weight._version, *([] if bias is None else [bias._version]))
        if present != self._base:
            self._weight = weight_of(self.inner).detach().to(self.dtype)
            self._bias = None if bias is None else bias.detach().to(self.dtype)
            self._base = present

    def end(self) -> None:
        """After a pass, also one that failed."""
        self._kept.clear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., d_in) -> (..., d_out)``."""
        # without a gradient to pass on, nobody would call the operator of the backward pass
        if not x.requires_grad and self.inner_trains:
            plain: torch.Tensor = _as_it_stands(self.inner, x)
            return plain
        y: torch.Tensor = projection(x.to(self.dtype), self.number, self.out_features)[0]
        if not torch.is_autocast_enabled(x.device.type):
            y = y.to(x.dtype)
        return y

    @property
    def inner_trains(self) -> bool:
        """Whether the pass adds gradients."""
        return _has_pass(self.inner)

    def map(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """``(..., d_out)`` and which call this was."""
        rows, call, lean = _rows(x), next(self._calls), _lean(self.inner)
        if lean is None:
            assert self._weight is not None
            return F.linear(rows, self._weight, self._bias).view(*x.shape[:-1], self.out_features), call
        drop = lean.drop(rows)
        y, u = lean.map(rows, drop, x.shape[:-1], rows.dtype)
        self._kept[call] = drop, u
        return y, call

    def differentiate(self, dy: torch.Tensor, x: torch.Tensor, call: int) -> torch.Tensor:
        """The gradient of `x`, from that of what `map` gave. Raises RuntimeError after the end of the pass."""
        if self.inner_trains and call not in self._kept:
            raise RuntimeError(AFTER_THE_END)
        lean = _lean(self.inner)
        if lean is None:
            assert self._weight is not None
            dx = _rows(dy) @ self._weight
        else:
            drop, u = self._kept.pop(call)
            found = lean.differentiate(_rows(dy), _rows(x), u, drop, x.shape[:-1], x.dtype)
            assert found is not None
            dx = found
        return dx.view(x.shape)


def can_be_seam(module: nn.Module) -> bool:
    """Whether `module` is a projection whose lean pass has begun, or a frozen linear map."""
    if _has_pass(module):
        return _lean(module) is not None
    return type(module).__name__ in ("Linear", "Conv1D") and not any(p.requires_grad for p in module.parameters())


def _has_pass(module: nn.Module) -> bool:
    return hasattr(module, "lean") and hasattr(module, "base")


def _lean(module: nn.Module) -> LeanProjection | None:
    lean = getattr(module, "lean", None)
    return lean if isinstance(lean, LeanProjection) else None


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()  # kernels read one row after the other


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _as_it_stands(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = module(x)
    return y


@torch.library.custom_op("dora::projection", mutates_args=())
def projection(x: torch.Tensor, number: torch.Tensor, d_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the seam of this `number` makes of `x`, ``(..., d_out)``, and which of its calls this is."""
    y, call = _seams[int(number)].map(x)
    return y, torch.tensor(call)


@torch.library.custom_op("dora::projection_backward", mutates_args=())
def projection_backward(dy: torch.Tensor, x: torch.Tensor, number: torch.Tensor, call: torch.Tensor) -> torch.Tensor:
    """The gradient of `x`; those of the factors are added where they belong."""
    return _seams[int(number)].differentiate(dy, x, int(call))


@projection.register_fake
def _(x: torch.Tensor, number: torch.Tensor, d_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(*x.shape[:-1], d_out), torch.empty((), dtype=torch.int64)


@projection_backward.register_fake
def _(dy: torch.Tensor, x: torch.Tensor, number: torch.Tensor, call: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, int], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, number, _ = inputs
    ctx.save_for_backward(x, number, output[1])


def _backward(ctx: Any, dy: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return projection_backward(dy, *ctx.saved_tensors), None, None


projection.register_autograd(_backward, setup_context=_setup)
