"""The three products that an adapter adds to its frozen linear map, forward and backward alike.

With `x` ``(N, d)``, a factor `F` of ``(r, d)`` and small activations `u` of ``(N, r)``, and `drop` the dropout of `x`::

    down:  u = drop(x) F^T
    up:    out = base + drop'(u F)     drop' scales and zeroes what drop does: its backward
    outer: sum += u^T drop(x)      in as many partial sums as `splits` says, for `collect` to add up

A GELU that follows `up`, or its derivative, costs `up` one more tensor to write or read.

In `chunks`, `x` and `u` fall into so many equal pieces one after the other; the factor is ``(r, d / chunks)``, and its
rows of chunk `i` belong to the `i`-th pieces. The first `tied` rows of a factor read all of `x`, whatever drops out.

`same_input.products.ManyKernels` does the same for several projections at once.

Forward is ``u = down(x, A)``, ``y = up(W0 x + b, u, s (B c)^T)``; backward is ``v = down(dy, s (B c)^T)``, ``dx = up(dy
W0, v, A)`` and two outer products. `TorchKernels` runs everywhere; `kernels_for` prefers Triton's on a CUDA device.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F

from dora_cli.methods.low_rank.arithmetic.dropout import cpu_scale, draw_mask
from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.protocols import Rows
from dora_cli.methods.low_rank.same_input.products import ManyKernels


class Kept(NamedTuple):
    """A dropout that was drawn: what is kept, ``(N, d)``, 0 or 1 in uint8, and its scale."""

    mask: torch.Tensor
    scale: float


class Kernels(Protocol):
    """One way to compute; a training pass begins with `begin`. A dropout is whatever `drop` returned, None for none.

    Attributes:
        draws_alike: whether a dropout that is drawn again under a restored generator of torch's, as checkpointing does,
            is the same.
        multiple: of how many rows `Factor.ready` is best made.
        launches: whether `outer` only launches, whatever the stream, with no memory of its own.
    """

    draws_alike: bool
    multiple: int
    launches: bool

    def many(self) -> ManyKernels | None:
        """The same for several projections at once, dropouts included; None where that is not faster."""

    def begin(self) -> None:
        """Draws anew what a pass's dropouts come from."""

    def scale(self, probability: float) -> float:
        """What a dropout multiplies a factor by before `down` and `up` take it; 1 where they do it themselves."""

    def prepare(
        self,
        factors: Rows,
        A: torch.Tensor,
        B_t: torch.Tensor,
        scaling: float,
        *,
        scale: float = 1.0,
        places: torch.Tensor | None = None,
    ) -> None:
        """Writes what a pass computes with, in the precision of the arithmetic: the first factor times `scale`, the
        second times its gates and `scaling`.

        Args:
            factors: of a group, ``(R, d_in)``, ``(R, d_out)`` and ``(R,)``, without gaps in memory.
            A: where the first one goes, ``(P, d_in)``; that factor itself where nothing is to be written.
            B_t: where the second one goes, ``(P, d_out)``.
            scale: what `Kernels.scale` says of the group's dropout, where all have the same.
            places: the rows of `A` and `B_t` that are written, ``(R,)``; None for all, in order.
        """

    def drop(self, x: torch.Tensor, probability: float, index: int) -> object:
        """The dropout of `x` by the projection number `index`; another one at every call of a pass."""

    def down(
        self, x: torch.Tensor, factor: Factor, drop: object, *, chunks: int = 1, tied: int = 0
    ) -> torch.Tensor: ...

    def up(
        self,
        base: torch.Tensor,
        u: torch.Tensor,
        factor: Factor,
        drop: object,
        out: torch.Tensor,
        *,
        chunks: int = 1,
        tied: int = 0,
        gelu: torch.Tensor | None = None,
        gelu_of: torch.Tensor | None = None,
    ) -> None:
        """Writes the sum to `out`, which is `base` or another tensor; `base` is given away.

        Args:
            gelu: where the GELU of the sum is written too, as large as `out`.
            gelu_of: a tensor of which the sum is the gradient of the GELU: `out` is that of the tensor.
        """

    def splits(self, width: int) -> int:
        """How many partial sums `outer` makes of a factor with so many columns."""

    def outer(self, totals: torch.Tensor, u: torch.Tensor, x: torch.Tensor, drop: object, *, chunks: int = 1) -> None:
        """Adds to `totals`, ``(splits, r, d / chunks)``, at least fp32; `u` may be some columns of a wider tensor."""

    def collect(self, totals: torch.Tensor, gradient: torch.Tensor, scaling: float = 1.0) -> None:
        """Adds the sum of `totals`, ``(splits, R, d)``, times `scaling`, to `gradient`, and clears them."""

    def collect_gated(
        self,
        totals: torch.Tensor,
        B_t: torch.Tensor,
        c: torch.Tensor,
        grad_B_t: torch.Tensor,
        grad_c: torch.Tensor,
        scaling: float,
    ) -> None:
        """The gradient of ``s B diag(c)`` by rows is the sum of `totals`: adds those of `B_t` and `c`, and clears
        `totals`.
        """


class TorchKernels:
    """Plain tensor operations.

    A dropout stores its mask, a byte an input: drawing it again costs more than that on a CPU.
    """

    draws_alike = True
    launches = False  # products have workspaces of their own in every stream, and here one memory for what is between

    def __init__(self, device: torch.device) -> None:
        self._on_cpu = device.type == "cpu"
        self.multiple = 16 if self._on_cpu else 1  # a third faster with 16 columns than with 12
        self._rooms: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        self._shaped: dict[tuple[int, torch.dtype, torch.Size], torch.Tensor] = {}

    def many(self) -> None:
        """None: calls cost little here, and runs that began one by one go on to the same bits."""

    def begin(self) -> None:
        """Nothing: every dropout draws from torch's generator or is seeded by it."""

    def scale(self, probability: float) -> float:
        return cpu_scale(probability) if self._on_cpu else 1 / (1 - probability)

    def prepare(
        self,
        factors: Rows,
        A: torch.Tensor,
        B_t: torch.Tensor,
        scaling: float,
        *,
        scale: float = 1.0,
        places: torch.Tensor | None = None,
    ) -> None:
        from_A, from_B_t, c = factors
        gates = scaling if c is None else (c * scaling)[:, None]
        if places is not None:
            cast = from_A.to(A.dtype)
            A.index_copy_(0, places, cast if scale == 1 else cast * scale)
            B_t.index_copy_(0, places, (from_B_t * gates).to(B_t.dtype))
            return
        if A is not from_A:
            A.copy_(from_A)
            if scale != 1:
                A.mul_(scale)
        torch.mul(from_B_t, gates, out=B_t)

    def drop(self, x: torch.Tensor, probability: float, index: int) -> Kept:
        if self._on_cpu:
            return Kept(*draw_mask(x.shape, probability))
        mask = torch.empty(x.shape, dtype=torch.uint8, device=x.device).bernoulli_(1 - probability)
        return Kept(mask, self.scale(probability))

    def _room(self, number: int, like: torch.Tensor) -> torch.Tensor:
        """Memory for an intermediate result, which new memory would cost more than: the system clears large pieces page
        by page.
        """
        shaped = self._shaped.get((number, like.dtype, like.shape))
        if shaped is None:
            room = self._rooms.get((number, like.dtype))
            if room is None or len(room) < like.numel():
                room = self._rooms[number, like.dtype] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
                self._shaped.clear()  # views of the former one, which they would keep
            shaped = self._shaped[number, like.dtype, like.shape] = room[: like.numel()].view(like.shape)
        return shaped

    def _kept(self, x: torch.Tensor, drop: Kept) -> torch.Tensor:
        """`x` where it is kept, not scaled."""
        return self._room(0, x).copy_(drop.mask).mul_(x)

    def down(self, x: torch.Tensor, factor: Factor, drop: object, *, chunks: int = 1, tied: int = 0) -> torch.Tensor:
        if tied and drop is not None:
            first, others = factor.part(slice(tied)), factor.part(slice(tied, None))
            return torch.cat([self.down(x, first, None), self.down(x, others, drop)], 1)
        scale = 1.0
        if drop is not None:
            assert isinstance(drop, Kept)
            x, scale = self._kept(x, drop), drop.scale
        if chunks > 1:
            rows = factor.scaled(scale).view(chunks, -1, factor.rows.shape[1])
            return torch.einsum("Nnd,nrd->Nnr", _pieces(x, chunks), rows).flatten(1)
        across = factor.across
        if scale != factor.scale or across.shape[1] % self.multiple:
            across = F.pad(factor.scaled(scale), (0, 0, 0, -factor.rank % self.multiple)).T
        u = torch.mm(x, across)
        return u if u.shape[1] == factor.rank else u[:, : factor.rank]

    def up(
        self,
        base: torch.Tensor,
        u: torch.Tensor,
        factor: Factor,
        drop: object,
        out: torch.Tensor,
        *,
        chunks: int = 1,
        tied: int = 0,
        gelu: torch.Tensor | None = None,
        gelu_of: torch.Tensor | None = None,
    ) -> None:
        scale = drop.scale if isinstance(drop, Kept) else 1.0
        if drop is None and chunks == 1:
            base.addmm_(u, factor.scaled(scale))
        else:
            if tied:
                base.addmm_(u[:, :tied], factor.rows[:tied])
                u, factor = u[:, tied:], factor.part(slice(tied, None))
            rows = factor.scaled(scale)
            if chunks > 1:
                pieces = rows.view(chunks, -1, rows.shape[1])
                update = torch.einsum("Nnr,nrd->Nnd", _pieces(u, chunks), pieces).flatten(1)
            else:
                update = torch.mm(u, rows, out=self._room(1, base))
            if drop is None:
                base.add_(update)
            else:
                assert isinstance(drop, Kept)
                base.addcmul_(update, self._room(0, base).copy_(drop.mask))
        if out is not base:
            out.copy_(base)
        activate(out, gelu, gelu_of)

    def splits(self, width: int) -> int:
        return 1

    def outer(self, totals: torch.Tensor, u: torch.Tensor, x: torch.Tensor, drop: object, *, chunks: int = 1) -> None:
        if drop is not None:
            assert isinstance(drop, Kept)
            x, u = self._kept(x, drop), u * drop.scale
        total = totals[0]
        if chunks > 1:
            total.add_(torch.einsum("Nnr,Nnd->nrd", _pieces(u, chunks), _pieces(x, chunks)).flatten(0, 1))
        elif total.dtype == x.dtype:
            total.addmm_(u.T, x)
        else:
            total.add_(u.T @ x)

    def collect(self, totals: torch.Tensor, gradient: torch.Tensor, scaling: float = 1.0) -> None:
        gradient.add_(totals.sum(0), alpha=scaling)
        totals.zero_()

    def collect_gated(
        self,
        totals: torch.Tensor,
        B_t: torch.Tensor,
        c: torch.Tensor,
        grad_B_t: torch.Tensor,
        grad_c: torch.Tensor,
        scaling: float,
    ) -> None:
        (total,) = totals
        grad_c.add_((total * B_t).sum(-1), alpha=scaling)
        grad_B_t.addcmul_(total, c[:, None], value=scaling)
        total.zero_()


def activate(out: torch.Tensor, gelu: torch.Tensor | None, gelu_of: torch.Tensor | None) -> None:
    """What `Kernels.up` does after its sum is in `out`."""
    if gelu is not None:
        torch.ops.aten.gelu.out(out, out=gelu)
    if gelu_of is not None:
        torch.ops.aten.gelu_backward.grad_input(out, gelu_of, grad_input=out)


def _pieces(rows: torch.Tensor, chunks: int) -> torch.Tensor:
    return rows.reshape(len(rows), chunks, -1)


def kernels_for(device: torch.device, dtype: torch.dtype, projections: int, ranks: Collection[int]) -> Kernels:
    """The fastest way to compute on `device` in `dtype`; `ranks` are those of the chunks, with what is tied.

    Triton comes with PyTorch's CUDA builds on Linux.
    """
    if dtype in (torch.float32, torch.bfloat16, torch.float16) and takes_triton(device):
        from dora_cli.methods.low_rank.arithmetic.triton_kernels import MAX_RANK, TritonKernels
        from dora_cli.methods.low_rank.same_input.triton_many import TritonMany

        if max(ranks) <= MAX_RANK:
            wide = all(rank % 16 == 0 for rank in ranks)
            return TritonKernels(device, projections, wide=wide, many=TritonMany)
    return TorchKernels(device)


def takes_triton(device: torch.device) -> bool:
    """Triton launches on the current device, whatever its arguments are on."""
    return device.type == "cuda" and device.index in (None, torch.cuda.current_device()) and triton_obstacle() is None


def triton_obstacle() -> str | None:
    """Why Triton can launch nothing on the CUDA devices here; None where it can."""
    try:
        from dora_cli.methods.low_rank.arithmetic.triton_kernels import obstacle
    except ImportError:
        return "it is not installed"
    return obstacle()
