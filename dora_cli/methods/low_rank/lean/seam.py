"""A projection as a compiled block sees it: one operator of PyTorch's own library, which a compiler calls and does not
look into.

What lies between two of them is the compiler's to fuse: the cast to the precision of the arithmetic, and the sum of the
gradients of projections that read the same input, included. Which projection is computed, of what rank, by which
kernels and with which dropout is read when the operator runs, from a number that the compiled code is given as a
tensor; so all blocks of a model run the same code, and ranks that change compile nothing anew.

Projections that read the same input are one operator together (`Joint`); what has a GELU between them computes it
(`seam_pair`).

Gradients of factors are added in place within the operator of the backward pass, as in every lean pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary, ref

import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.linear import is_transposed, shape_of, weight_of
from dora_cli.methods.low_rank.arithmetic.kernels import activate
from dora_cli.methods.low_rank.lean.projection import AFTER_THE_END, LeanProjection
from dora_cli.methods.low_rank.same_input.readers import Readers
from dora_cli.methods.low_rank.same_input.together import Together, is_plain

_numbers = count()
_seams: WeakValueDictionary[int, Seam | Joint] = WeakValueDictionary()


class Joining(Protocol):
    """Several seams that are computed in each other's knowledge."""

    def output_of(self, place: int, x: torch.Tensor) -> torch.Tensor | None:
        """What the seam at `place` among them gives for `x`; None where it has to be computed alone."""


class Entry:
    """What a block is given, and the same in another type, where whoever gave it had that already; the block's traced
    code says so, and takes it back at its end. As with `Joint`, a block whose training code changes in place what its
    evaluation code leaves as it is goes wrong; in-place dropouts are known.
    """

    def __init__(self) -> None:
        self.x: torch.Tensor | None = None
        self.converted: torch.Tensor | None = None

    def to(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`x` in this type."""
        known = self.converted if torch.compiler.is_compiling() and x is self.x else None
        return known if known is not None and known.dtype == dtype else x.to(dtype)


class Seam(nn.Module):
    """Stands in the place of a projection within one training pass.

    Either `inner` is a layer with a lean pass begun, whose input requires a gradient, else it is computed as it
    stands; or it is a frozen linear map.

    Args:
        inner: what is computed.
        entry: that of the block that it is in.
    """

    number: torch.Tensor

    def __init__(self, inner: nn.Module, entry: Entry | None = None) -> None:
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
        self.joint: Joining | None = None  # with others that read the same input, or across a GELU
        self.place = 0  # there
        self.entry = entry or Entry()
        self._calls = count()
        self._saved: dict[int, Saved | None] = {}
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
        self.joint = None
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
        self._saved.clear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., d_in) -> (..., d_out)``."""
        # without a gradient to pass on, nobody would call the operator of the backward pass
        if not x.requires_grad and self.inner_trains:
            plain: torch.Tensor = _as_it_stands(self.inner, x)
            return plain
        y = None if self.joint is None else self.joint.output_of(self.place, x)
        if y is None:
            y = projection(self.entry.to(x, self.dtype), self.number, self.out_features)[0]
        if y.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            y = y.to(x.dtype)
        return y

    @property
    def inner_trains(self) -> bool:
        """Whether the pass adds gradients."""
        return _has_pass(self.inner)

    def map(self, x: torch.Tensor, gelu: torch.Tensor | None = None) -> tuple[torch.Tensor, int]:
        """``(..., d_out)`` and which call this was; its GELU is written to `gelu`, where that is given."""
        call = next(self._calls)
        written = None if gelu is None else gelu.view(-1, self.out_features)
        y, self._saved[call] = self.compute(_rows(x), x.shape[:-1], written)
        return y, call

    def compute(
        self, rows: torch.Tensor, lead: torch.Size, gelu: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Saved | None]:
        """``(*lead, d_out)`` from ``(N, d_in)``, and what `gradient` wants of it."""
        lean = self.adapted
        if lean is None:
            assert self._weight is not None
            y = F.linear(rows, self._weight, self._bias)
            activate(y, gelu, None)
            return y.view(*lead, self.out_features), None
        drop = lean.drop(rows)
        y, u = lean.map(rows, drop, lead, rows.dtype, gelu)
        return y, Saved(drop, u)

    def differentiate(
        self, dy: torch.Tensor, x: torch.Tensor, call: int, gelu_of: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The gradient of `x`, from that of what `map` gave, or of what `x` is the GELU of, where that is given. Raises
        RuntimeError after the end of the pass.
        """
        saved = self._saved.pop(call, None)
        if saved is None and self.inner_trains:
            raise RuntimeError(AFTER_THE_END)
        of = None if gelu_of is None else _rows(gelu_of)
        return self.gradient(_rows(dy), _rows(x), saved, x.shape[:-1], of).view(x.shape)

    def gradient(
        self,
        dy: torch.Tensor,
        rows: torch.Tensor,
        saved: Saved | None,
        lead: torch.Size,
        gelu_of: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """That of the rows, or of `gelu_of`, whose GELU they are, from that of what `compute` gave."""
        lean = self.adapted
        if lean is None:
            assert self._weight is not None
            dx = dy @ self._weight
            activate(dx, None, gelu_of)
            return dx
        assert saved is not None
        found = lean.differentiate(dy, rows, saved.u, saved.drop, lead, rows.dtype, gelu_of)
        assert found is not None
        return found

    @property
    def adapted(self) -> LeanProjection | None:
        """The projection in the pass; None of a frozen map."""
        return _lean(self.inner)


class Saved(NamedTuple):
    """What a call leaves for its backward pass, one dropout or those of several."""

    drop: Any
    u: torch.Tensor | None


class Joint:
    """Seams of one block whose projections read the same input, as one operator; the first that is called calls it.

    What is computed as one within it may change from pass to pass, as components are lost; the code that is traced
    stays.

    Args:
        seams: in the order of their calls, of one type.
    """

    def __init__(self, seams: Sequence[Seam]) -> None:
        self._seams = [ref(seam) for seam in seams]  # no cycle
        self.widths = [seam.out_features for seam in seams]
        self.out_features, self.dtype = sum(self.widths), torch.float32
        number = next(_numbers)
        self.number = torch.tensor(number)
        _seams[number] = self
        self.entry = seams[0].entry
        self._calls = count()
        self._saved: dict[int, tuple[Together | None, list[Saved | None]]] = {}
        self.x: torch.Tensor | None = None
        self.y: torch.Tensor | None = None
        self._keeps = False  # whether somebody will `take` all outputs
        self._whole: torch.Tensor | None = None
        self._state: tuple[int, bool] | None = None

    def begin(self, *, keeps: bool = False) -> None:
        """Before a pass, after its seams have begun; `keeps` says whether somebody will `take` what it gives."""
        self.dtype, self._keeps = self.seams[0].dtype, keeps
        for place, seam in enumerate(self.seams):
            seam.joint, seam.place = self, place

    def end(self) -> None:
        """After a pass, also one that failed."""
        self._saved.clear()
        self.x = self.y = self._whole = None

    @property
    def seams(self) -> list[Seam]:
        """Those that are joined."""
        seams = [seam() for seam in self._seams]
        return [seam for seam in seams if seam is not None]

    def output_of(self, place: int, x: torch.Tensor) -> torch.Tensor | None:
        """What the seam at `place` gives for `x`; None where it has to be computed alone: where the first seam had
        another tensor or another mode of gradients, or, unless a compiler traces this, where `x` was changed since.

        Traced code knows no versions. There only a model goes wrong whose training code changes in place what its
        evaluation code, by which seams are joined, leaves as it is.
        """
        unknown = torch.compiler.is_compiling() or x.is_inference()
        state = 0 if unknown else x._version, torch.is_grad_enabled()
        if place == 0:
            self.x, self.y = x, projection(self.entry.to(x, self.dtype), self.number, self.out_features)[0]
            self._state = state
        if self.x is not x or self.y is None or self._state != state:
            return None
        start = sum(self.widths[:place])
        part = self.y[..., start : start + self.widths[place]]
        if place == len(self.widths) - 1:
            self._whole = self.y if self._keeps else None
            self.x = self.y = None
        return part

    def take(self) -> torch.Tensor | None:
        """All outputs of the latest call beside each other, once, after the last of them was asked for; None where they
        are not kept, or somebody else has taken them.
        """
        whole, self._whole = self._whole, None
        return whole

    def map(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        """All outputs beside each other, ``(..., sum of d_out)``, and which call this was."""
        rows, call, together = _rows(x), next(self._calls), self._together()
        if together is not None:
            drops = [lean.drop(rows) for lean in together.members]
            y, u = together.map_beside(rows, drops)
            self._saved[call] = together, [Saved(drops, u)]
        else:
            made = [seam.compute(rows, torch.Size([len(rows)])) for seam in self.seams]
            y = torch.cat([part for part, _ in made], 1)
            self._saved[call] = None, [saved for _, saved in made]
        return y.view(*x.shape[:-1], self.out_features), call

    def differentiate(self, dy: torch.Tensor, x: torch.Tensor, call: int) -> torch.Tensor:
        """The gradient of `x`, from that of what `map` gave. Raises RuntimeError after the end of the pass."""
        if call not in self._saved and any(seam.inner_trains for seam in self.seams):
            raise RuntimeError(AFTER_THE_END)
        together, saved = self._saved.pop(call, (None, [None] * len(self.widths)))
        gradients, rows, lead = _rows(dy), _rows(x), x.shape[:-1]
        if together is not None:
            (own,) = saved
            assert own is not None
            dx = together.differentiate(gradients, rows, own.u, own.drop, lead, x.dtype)
            assert dx is not None
            return dx.view(x.shape)
        parts = torch.split(gradients, self.widths, 1)
        first, *others = (
            seam.gradient(part.contiguous(), rows, own, lead)
            for seam, part, own in zip(self.seams, parts, saved, strict=True)
        )
        return sum(others, first).view(x.shape)

    def _together(self) -> Together | None:
        """All of them, where the pass computes them as one."""
        leans = [seam.adapted for seam in self.seams]
        together = None if leans[0] is None else leans[0].together()
        return together if isinstance(together, Together) and together.begun and together.members == leans else None


def seam_of(number: torch.Tensor) -> Seam:
    """The one of this `number`."""
    seam = _seams[int(number)]
    assert isinstance(seam, Seam)
    return seam


def can_be_seam(module: nn.Module) -> bool:
    """Whether `module` is a projection whose lean pass has begun, or a frozen linear map."""
    if _has_pass(module):
        return _lean(module) is not None
    return type(module).__name__ in ("Linear", "Conv1D") and not any(p.requires_grad for p in module.parameters())


def found_readers(module: nn.Module) -> Readers | None:
    """What reads the same input in the model of `module`, as its pass has found it; None where it has not, or could not
    compute `module` as one with others.
    """
    lean = _lean(module)
    return lean.readers if lean is not None and is_plain(lean) else None


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
