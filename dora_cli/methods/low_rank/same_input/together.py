"""Projections that read the same input, computed in one autograd function: the frozen maps in one product, each of the
products of `kernels` in one call for all, and one gradient of the input, which autograd need not add up.

The first that is called computes all of them. The others take what is theirs when they are called with that input; with
another they compute for themselves, and their share of the first's work has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch

from dora_cli.methods.low_rank.lean.projection import AFTER_THE_END, LeanProjection
from dora_cli.methods.low_rank.same_input.products import ManyKernels, Wide


class _Ready(NamedTuple):
    """What the first of some projections has computed for those of the others that have not been called yet."""

    x: torch.Tensor
    version: int
    mode: object
    outputs: dict[LeanProjection, torch.Tensor]


class Together:
    """Projections that read the same input, in the order of their calls.

    Where the frozen weights had to be copied into the precision of the arithmetic, the copies lie one after the other
    in one matrix, and its parts are the projections' weights from then on. Weights that need no copy stay where they
    are, and are multiplied one by one: nothing is stored twice.

    Args:
        many: what computes.
        members: two or more for which `can_be_together` holds, at most `MANY`.
    """

    def __init__(self, many: ManyKernels, members: Sequence[LeanProjection]) -> None:
        self._many, self.members, self.branches = many, list(members), members[0].branches
        self.A, self.B_t = ([getattr(lean, name) for lean in members] for name in ("A", "B_t"))
        self._grad_A, self._grad_up = ([getattr(lean, name) for lean in members] for name in ("grad_A", "grad_up"))
        self._widths = [lean.B_t.ready.shape[1] for lean in members]
        self._weights: list[torch.Tensor] = []  # of the members, when they were put together
        self._stacked: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        self._ready: _Ready | None = None
        self.begun = False  # whether this pass may compute them as one
        self.trains: torch.Tensor | None = None

    # -- passes --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before a pass, after the members have followed their bases."""
        members = self.members
        modes = {lean.layer.training for lean in members}
        self.begun = len(modes) == 1 and all(lean.layer.lean is lean for lean in members)
        if not self.begun:
            return
        weights = [lean.weight for lean in members]
        if len(self._weights) != len(weights) or any(
            old is not new for old, new in zip(self._weights, weights, strict=True)
        ):
            self._put_together()
        self.trains = next((lean.trains for lean in members if lean.trains is not None), None)

    def end(self) -> None:
        """After a pass, also one that failed."""
        self._ready, self.begun = None, False

    def _put_together(self) -> None:
        members = self.members
        self._stacked = self._bias = None
        if all(lean.copied for lean in members):
            first = members[0].weight
            self._stacked = first.new_empty(sum(self._widths), first.shape[1])
            for lean, part in zip(members, torch.split(self._stacked, self._widths), strict=True):
                lean.move_weight(part)
            if any(lean.bias is not None for lean in members):
                none = [first.new_zeros(width) for width in self._widths]
                biases = [lean.bias for lean in members]
                self._bias = torch.cat([no if bias is None else bias for no, bias in zip(none, biases, strict=True)])
        self._weights = [lean.weight for lean in members]

    # -- calls ---------------------------------------------------------------------------------------------------------

    def output_of(self, lean: LeanProjection, x: torch.Tensor) -> torch.Tensor | None:
        """What `lean`, a member, gives for `x`; None where it has to compute for itself."""
        if not self.begun or x.is_inference():
            return None
        mode = torch.is_grad_enabled(), torch.is_autocast_enabled(x.device.type)
        if lean is self.members[0]:
            outputs = _Together.apply(x, self.trains, self)  # type: ignore[no-untyped-call]
            self._ready = _Ready(x, x._version, mode, dict(zip(self.members, outputs, strict=True)))
        ready = self._ready
        if ready is None or ready.x is not x or ready.version != x._version or ready.mode != mode:
            return None
        y = ready.outputs.pop(lean, None)
        if not ready.outputs:
            self._ready = None
        return y

    @property
    def keeps_rows(self) -> bool:
        """Whether `differentiate` reads the rows that `map` was given."""
        return any(total is not None for total in self._grad_A)

    def map(
        self, rows: torch.Tensor, drops: Sequence[object], lead: Sequence[int], dtype: torch.dtype
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """From ``(N, d_in)``, one row after the other in memory, to each member's ``(*lead, d_out)`` in `dtype`, no
        views; and all ``u`` beside each other, ``(N, sum of r)`` in one dimension, where `differentiate` wants it.
        """
        u = self._many.down(Wide.same(rows, len(self.members)), self.A, drops)
        base = self._frozen(rows)
        memory = base.memory if dtype == rows.dtype else torch.empty_like(base.memory, dtype=dtype)
        out = base._replace(memory=memory)
        self._many.up(base, u, self.B_t, out)
        return [_own(out, index, lead) for index in range(len(self.members))], self._kept(u)

    def map_beside(self, rows: torch.Tensor, drops: Sequence[object]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same in the type of the rows, all outputs beside each other: ``(N, sum of d_out)``."""
        u = self._many.down(Wide.same(rows, len(self.members)), self.A, drops)
        base = self._frozen(rows, beside=True)
        self._many.up(base, u, self.B_t, base)
        return base.memory.view(len(rows), -1), self._kept(u)

    def _kept(self, u: Wide) -> torch.Tensor | None:
        """What `differentiate` wants of ``u``."""
        needs_u = any(lean.grad_up is not None or lean.layer.watch is not None for lean in self.members)
        return u.memory if needs_u else None

    def _frozen(self, rows: torch.Tensor, *, beside: bool = False) -> Wide:
        """What the frozen maps give: each one's in one piece where one product does that, as models work on it best."""
        count, widths = len(rows), self._widths
        memory = rows.new_empty(count * sum(widths))
        stacked, each = self._stacked, Wide.after(memory, count, widths)
        if stacked is None:
            each = Wide.beside(memory, count, widths) if beside else each
            for index, lean in enumerate(self.members):
                _product(rows, lean.weight, lean.bias, each.part(index))
            return each
        if self._bias is None and len(set(widths)) == 1 and not beside:
            weights = stacked.view(len(widths), widths[0], -1)
            x = rows.expand(len(widths), *rows.shape)
            torch.bmm(x, weights.transpose(1, 2), out=memory.view(len(widths), count, widths[0]))
            return each
        _product(rows, stacked, self._bias, memory.view(count, -1))
        return Wide.beside(memory, count, widths)

    def differentiate(
        self,
        dy: torch.Tensor,
        rows: torch.Tensor | None,
        u: torch.Tensor | None,
        drops: Sequence[object],
        lead: Sequence[int],
        dtype: torch.dtype | None,
    ) -> torch.Tensor | None:
        """Adds the gradients of the factors where they belong, and gives that of the rows, ``(N, d_in)``.

        Args:
            dy: of all outputs beside each other, ``(N, sum of d_out)``.
            rows: what `map` was given; None where it need not be kept.
            u: what `map` gave.
            drops: of the same call.
            lead: the dimensions that `N` rows stand for.
            dtype: of the gradient; None where nobody wants it.
        """
        if any(lean.layer.lean is not lean for lean in self.members):
            raise RuntimeError(AFTER_THE_END)
        many = self._many
        wide = Wide.beside(dy.to(self._weights[0].dtype).reshape(-1), len(dy), self._widths)
        v = many.down(wide, self.B_t, [None] * len(self.members))
        with self.branches.sums(wide.memory, rows, drops, u, v.memory):
            if any(total is not None for total in self._grad_up):
                assert u is not None
                many.outer(self._grad_up, v._replace(memory=u), wide, [None] * len(self.members))
            if self.keeps_rows:
                assert rows is not None
                many.outer(self._grad_A, v, Wide.same(rows, len(self.members)), drops)
        base = None if dtype is None else self._frozen_backward(wide)
        self._show(u, v, lead)
        if base is None:
            return None
        dx = base if base.dtype == dtype else torch.empty_like(base, dtype=dtype)
        many.up_sum(base, v, self.A, drops, dx)
        return dx

    def beside(self, gradients: Sequence[torch.Tensor | None], count: int) -> torch.Tensor:
        """Those of `count` rows each, in one row: ``(N, sum of d_out)``; zeros where there is none."""
        zero = self._weights[0].new_zeros(1, 1)
        found = [
            zero.expand(count, width) if gradient is None else gradient.reshape(-1, width)
            for gradient, width in zip(gradients, self._widths, strict=True)
        ]
        return torch.cat(found, 1)

    def _frozen_backward(self, dy: Wide) -> torch.Tensor:
        if self._stacked is not None:
            return torch.mm(dy.memory.view(dy.rows, -1), self._stacked)
        dx = torch.mm(dy.part(0), self.members[0].weight)
        for index, lean in enumerate(self.members[1:], 1):
            dx.addmm_(dy.part(index), lean.weight)
        return dx

    def _show(self, u: torch.Tensor | None, v: Wide, lead: Sequence[int]) -> None:
        for index, lean in enumerate(self.members):
            if lean.layer.watch is not None and lean.A.rank:
                assert u is not None
                shape = (*lead, lean.A.rank)
                lean.layer.watch(v._replace(memory=u).part(index).reshape(shape), v.part(index).reshape(shape))


def is_plain(lean: LeanProjection) -> bool:
    """Whether it has nothing that only computing alone knows: chunks, tied components, noise on its weight."""
    return lean.chunks == 1 and not lean.tied and lean.layer.noise is None


def can_be_together(members: Sequence[LeanProjection]) -> bool:
    """Whether these plain ones may be computed as one: alike in dropout and in what trains, some component at all."""
    layers = [lean.layer for lean in members]
    alike = len({(layer.frozen, lean.A.ready.shape[1]) for layer, lean in zip(layers, members, strict=True)}) == 1
    probabilities = {layer.dropout for layer in layers if layer.rank}
    return len(members) > 1 and alike and len(probabilities) == 1


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    if bias is None:
        torch.mm(rows, weight.T, out=out)
    else:
        torch.addmm(bias, rows, weight.T, out=out)


def _own(wide: Wide, index: int, lead: Sequence[int]) -> torch.Tensor:
    """One projection's part, ``(*lead, width)``, a tensor of its own on the same memory: autograd refuses in-place
    changes of views that a function returns, and some models make them. Nobody else reads these elements.
    """
    memory, row = wide.memory, wide.strides[index]
    strides = [prod(lead[place + 1 :]) * row for place in range(len(lead))]
    start = memory.storage_offset() + wide.starts[index]
    own = torch.empty(0, dtype=memory.dtype, device=memory.device)
    return own.set_(memory.untyped_storage(), start, (*lead, wide.widths[index]), (*strides, 1))


class _Together(torch.autograd.Function):
    """From `x`, ``(..., d_in)``, to every member's ``(..., d_out)``; see `projection._Adapted`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, trains: torch.Tensor | None, together: Together) -> tuple[torch.Tensor, ...]:
        first = together.members[0]
        rows = first.inputs.cast(x).reshape(-1, x.shape[-1]).contiguous()  # kernels read one row after the other
        drops = [lean.drop(rows) for lean in together.members]
        dtype = rows.dtype if torch.is_autocast_enabled(x.device.type) else x.dtype
        outputs, u = together.map(rows, drops, x.shape[:-1], dtype)
        ctx.save_for_backward(rows if together.keeps_rows else None, u)
        ctx.together, ctx.drops, ctx.shape, ctx.dtype = together, drops, x.shape, x.dtype
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        rows, u = ctx.saved_tensors
        dtype = ctx.dtype if ctx.needs_input_grad[0] else None
        dy = ctx.together.beside(gradients, prod(ctx.shape[:-1]))
        dx = ctx.together.differentiate(dy, rows, u, ctx.drops, ctx.shape[:-1], dtype)
        return None if dx is None else dx.view(ctx.shape), None, None
