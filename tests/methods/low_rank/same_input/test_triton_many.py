"""Triton's products of several projections at once, against exact ones.

They run on a GPU, or with ``TRITON_INTERPRET=1``, set before Python starts, on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.same_input.products import Wide
from tests.methods.low_rank.arithmetic.test_triton_kernels import close, dropouts, dropped
from tests.methods.small import new_dora, sites
from tests.triton_kernels import DEVICE, INTERPRETED, TYPES

if not INTERPRETED:
    pytestmark = pytest.mark.gpu

shapes = pytest.mark.parametrize(
    ("widths", "ranks"),
    [((48, 20, 20), (3, 5, 2)), ((64, 64), (16, 20)), ((130, 64, 7), (4, 0, 4)), ((272, 272, 272), (1, 0, 128))],
)
D_IN = 50


def kernels(projections: int = 4) -> Any:
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank.arithmetic.triton_kernels import TritonKernels
    from dora_cli.methods.low_rank.same_input.triton_many import TritonMany

    made = TritonKernels(torch.device(DEVICE), projections, many=TritonMany)
    made.begin()
    return made


def random(*shape: int, dtype: torch.dtype = torch.float32, offset: int = 0) -> torch.Tensor:
    """It begins `offset` entries after where memory is aligned."""
    count = torch.Size(shape).numel()
    room = torch.randn(count + offset, generator=torch.Generator().manual_seed(count))
    return room.to(DEVICE, dtype)[offset:].view(shape)


def factors(ranks: Sequence[int], widths: Sequence[int], dtype: torch.dtype, offset: int = 0) -> list[Factor]:
    made = (random(rank, width, dtype=dtype, offset=offset) for rank, width in zip(ranks, widths, strict=True))
    return [Factor(factor, len(factor)) for factor in made]


def drops_of(made: Any, x: torch.Tensor, ranks: Sequence[int], probability: float) -> list[Any]:
    return [made.drop(x, probability, i + 1) if probability and rank else None for i, rank in enumerate(ranks)]


@TYPES
@shapes
@dropouts
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "not aligned"])
def test_of_one_input(
    widths: tuple[int, ...], ranks: tuple[int, ...], dtype: torch.dtype, probability: float, offset: int
) -> None:
    """`down` and `outer` read it, and `up_sum` writes the gradient of it."""
    made, count = kernels(), len(ranks)
    many = made.many()
    for _ in range(2):  # the second launch is of a kernel that is known
        x, A = random(40, D_IN, dtype=dtype, offset=offset), factors(ranks, (D_IN,) * count, dtype, offset)
        drops = drops_of(made, x, ranks, probability)
        kept = [dropped(x, drop, probability) for drop in drops]
        u = many.down(Wide.same(x, count), A, drops)
        for i, factor in enumerate(A):
            if factor.rank:
                close(u.part(i), kept[i] @ factor.ready.double().T, dtype)
        totals = [random(2, rank, D_IN) if rank else None for rank in ranks]
        exact = [
            None if total is None else total.double().sum(0) + u.part(i).double().T @ kept[i]
            for i, total in enumerate(totals)
        ]
        many.outer(totals, u, Wide.same(x, count), drops)
        for total, sums in zip(totals, exact, strict=True):
            if total is not None:
                close(total.sum(0), sums, dtype)
        base = random(40, D_IN, dtype=dtype)
        updates = [
            dropped(u.part(i).double() @ factor.ready.double(), drops[i], probability) for i, factor in enumerate(A)
        ]
        wanted = base.double() + sum(updates)
        out = torch.empty_like(base, dtype=torch.float32) if probability else base
        many.up_sum(base, u, A, drops, out)
        close(out, wanted, dtype)


@TYPES
@dropouts
@pytest.mark.parametrize("width", [300, 1300])
def test_of_an_input_of_many_columns(width: int, dtype: torch.dtype, probability: float) -> None:
    """More than a block reads at a time, in two parts and in four."""
    made, ranks = kernels(), (12, 3)
    x, A = random(40, width, dtype=dtype), factors(ranks, (width, width), dtype)
    drops = drops_of(made, x, ranks, probability)
    u = made.many().down(Wide.same(x, 2), A, drops)
    for i, factor in enumerate(A):
        close(u.part(i), dropped(x, drops[i], probability) @ factor.ready.double().T, dtype)


@TYPES
@shapes
@pytest.mark.parametrize("lie", [Wide.beside, Wide.after], ids=["beside", "after"])
@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("to", [None, torch.float32], ids=["in place", "fp32"])
def test_of_an_output_each(
    widths: tuple[int, ...],
    ranks: tuple[int, ...],
    dtype: torch.dtype,
    lie: Callable[..., Wide],
    offset: int,
    to: torch.dtype | None,
) -> None:
    """`up` writes them, and `down` and `outer` read their gradients."""
    many, none = kernels().many(), [None] * len(ranks)
    for _ in range(2):
        memory = random(300 * sum(widths), dtype=dtype, offset=offset)
        wide, B_t = lie(memory, 300, widths), factors(ranks, widths, dtype, offset)
        v = many.down(wide, B_t, none)
        totals = [random(3 - i, rank, widths[i]) if rank else None for i, rank in enumerate(ranks)]
        exact = [
            None if total is None else total.double().sum(0) + v.part(i).double().T @ wide.part(i).double()
            for i, total in enumerate(totals)
        ]
        many.outer(totals, v, wide, none)
        for i, (factor, total, sums) in enumerate(zip(B_t, totals, exact, strict=True)):
            if total is not None:
                close(v.part(i), wide.part(i).double() @ factor.ready.double().T, dtype)
                close(total.sum(0), sums, dtype)
        wanted = [wide.part(i).double() + v.part(i).double() @ factor.ready.double() for i, factor in enumerate(B_t)]
        out = wide if to is None else wide._replace(memory=torch.empty_like(memory, dtype=to))
        many.up(wide, v, B_t, out)
        for i, exactly in enumerate(wanted):
            close(out.part(i), exactly, dtype)


class Attention(nn.Module):
    """One of grouped queries: `k` and `v` are narrower; then gate and up."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(24, d) for d in (24, 8, 8, 24))
        self.gate, self.up = nn.Linear(24, 40, bias=False), nn.Linear(24, 40, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.o(torch.tanh(self.q(x)) * (self.k(x) + self.v(x)).repeat(1, 1, 3))
        return (torch.tanh(self.gate(y)) * self.up(y)).sum(-1)


@dropouts
def test_a_pass_computes_what_each_alone_does(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks are the same ones too."""
    from dora_cli.methods.low_rank.lean import lean_pass as lean

    found = []
    for together in (True, False):
        made = kernels(6)
        if not together:
            made._many = None
        monkeypatch.setattr(lean, "kernels_for", lambda *_, made=made: made)
        torch.manual_seed(0)
        model = Attention().to(DEVICE).requires_grad_(False)
        dora = new_dora(rank=2, start_rank=3, dropout=probability)
        dora.attach(model, sites(dict(model.named_children())))
        for parameter in dora.parameters():
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator(DEVICE).manual_seed(1))
        x = torch.randn(4, 7, 24, generator=torch.Generator().manual_seed(2)).to(DEVICE).requires_grad_()
        torch.manual_seed(3)
        made._seeds.copy_(torch.arange(6) * 7919)
        monkeypatch.setattr(type(made), "begin", lambda self: None)
        with dora.training_pass():
            loss = model.train()(x).sum()
            loss.backward()
        kinds = sorted(len(one.members) for one in dora._adapters._passes._lean._together)
        assert kinds == ([2, 3] if together else [])
        found.append([loss.detach(), x.grad, *(parameter.grad for parameter in dora.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4 * float(two.abs().max()))
