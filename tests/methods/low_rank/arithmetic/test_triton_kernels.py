"""The Triton kernels against plain tensor operations with the very same masks: on a GPU, or anywhere in Triton's
interpreter.

The interpreter is asked for by ``TRITON_INTERPRET=1``; it checks the arithmetic, not the speed.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dora_cli.errors import ModelError
from dora_cli.methods.low_rank.arithmetic.dropout import HASH_BITS, cut, hashed_keep, scale
from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.arithmetic.kernels import Kernels
from tests.methods.small import new_dora, sites
from tests.triton_kernels import DEVICE, INTERPRETED, TOLERANCE, TYPES

if not INTERPRETED:
    pytestmark = pytest.mark.gpu
shapes = pytest.mark.parametrize(
    ("rows", "width", "rank"), [(40, 130, 3), (64, 256, 16), (17, 48, 40), (5, 16, 1), (40, 272, 128)]
)
dropouts = pytest.mark.parametrize("probability", [0.0, 0.3])


def kernels(projections: int = 3, *, wide: bool = False):  # type: ignore[no-untyped-def]
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank.arithmetic.triton_kernels import TritonKernels

    made = TritonKernels(torch.device(DEVICE), projections, wide=wide)
    made.begin()
    return made


def operands(rows: int, width: int, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    made = (
        torch.randn(*shape, generator=generator).to(DEVICE, dtype)
        for shape in ((rows, width), (rank, width), (rows, rank))
    )
    return tuple(made)  # type: ignore[return-value]


def dropped(x: torch.Tensor, drop: object, probability: float, chunks: int = 1) -> torch.Tensor:
    if drop is None:
        return x.double()
    threshold = cut(probability, HASH_BITS)
    seed, call = drop.seed.cpu(), drop.call  # type: ignore[attr-defined]
    mask = hashed_keep(*x.shape, seed, call, threshold, chunks=chunks).to(x.device)
    return x.double() * mask * scale(threshold, HASH_BITS)


def whole_of(factor: torch.Tensor) -> Factor:
    return Factor(factor, len(factor))


def close(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    assert float((found.double() - exact).abs().max()) < TOLERANCE[dtype] * float(exact.abs().max())


@TYPES
@shapes
@dropouts
def test_down(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float) -> None:
    x, factor, _ = operands(rows, width, rank, dtype)
    made = kernels()
    drop = made.drop(x, probability, 1) if probability else None
    found = made.down(x, whole_of(factor), drop)
    assert found.dtype == dtype
    close(found, dropped(x, drop, probability) @ factor.double().T, dtype)


@TYPES
@shapes
@dropouts
@pytest.mark.parametrize("out", [None, torch.float32], ids=["in place", "fp32"])
def test_up(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float, out: torch.dtype | None) -> None:
    base, factor, u = operands(rows, width, rank, dtype)
    made = kernels()
    drop = made.drop(base, probability, 0) if probability else None
    exact = base.double() + dropped((u.double() @ factor.double()), drop, probability)
    found = base if out is None else torch.empty_like(base, dtype=out)
    made.up(base, u, whole_of(factor), drop, found)
    close(found, exact, dtype)


@TYPES
@shapes
@dropouts
def test_up_with_a_gelu(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float) -> None:
    """After it, and before it: then its sum is the gradient of what GELU gave."""
    base, factor, u = operands(rows, width, rank, dtype)
    y = 3 * base.flip(0)
    made = kernels()
    drop = made.drop(base, probability, 0) if probability else None
    exact = base.double() + dropped((u.double() @ factor.double()), drop, probability)
    found, activated, gradient = base.clone(), torch.empty_like(base), torch.empty_like(base)
    made.up(found, u, whole_of(factor), drop, found, gelu=activated)
    close(found, exact, dtype)
    close(activated, F.gelu(found.double()), dtype)
    made.up(base, u, whole_of(factor), drop, gradient, gelu_of=y)
    close(gradient, torch.ops.aten.gelu_backward(exact, y.double()), dtype)


@TYPES
@dropouts
@pytest.mark.parametrize("width", [300, 1300])
def test_down_of_many_columns(width: int, dtype: torch.dtype, probability: float) -> None:
    """More than a block reads at a time, in two parts and in four."""
    x, factor, _ = operands(40, width, 12, dtype)
    made = kernels()
    drop = made.drop(x, probability, 1) if probability else None
    close(made.down(x, whole_of(factor), drop), dropped(x, drop, probability) @ factor.double().T, dtype)


@TYPES
@shapes
@dropouts
@pytest.mark.parametrize("splits", [1, 3])
def test_outer(rows: int, width: int, rank: int, dtype: torch.dtype, probability: float, splits: int) -> None:
    x, _, u = (tensor.repeat(5, 1) if len(tensor) == rows else tensor for tensor in operands(rows, width, rank, dtype))
    totals = torch.randn(splits, rank, width, device=DEVICE)
    made = kernels()
    drop = made.drop(x, probability, 2) if probability else None
    exact = totals.double().sum(0) + u.double().T @ dropped(x, drop, probability)
    made.outer(totals, u, x, drop)
    close(totals.sum(0), exact, dtype)


def whole(factor: torch.Tensor, chunks: int) -> torch.Tensor:
    """The block-diagonal matrix that a factor in chunks stands for, ``(r, d)``."""
    return torch.block_diag(*factor.double().tensor_split(chunks))


@TYPES
@dropouts
@pytest.mark.parametrize(
    ("rows", "width", "rank", "chunks", "wide"), [(40, 96, 6, 2, False), (17, 132, 44, 4, False), (40, 96, 32, 2, True)]
)
def test_in_chunks(
    rows: int, width: int, rank: int, chunks: int, wide: bool, dtype: torch.dtype, probability: float
) -> None:
    x, _, u = operands(rows, width, rank, dtype)
    factor = operands(rows, width // chunks, rank, dtype)[1]
    made, totals = kernels(wide=wide), torch.randn(2, rank, width // chunks, device=DEVICE)
    drop = made.drop(x, probability, 1) if probability else None
    kept, exact = dropped(x, drop, probability, chunks), whole(factor, chunks)
    close(made.down(x, whole_of(factor), drop, chunks=chunks), kept @ exact.T, dtype)
    products = (u.double().T @ kept).view(chunks, rank // chunks, chunks, -1)
    sums = totals.double().sum(0) + torch.cat([products[chunk, :, chunk] for chunk in range(chunks)])
    made.outer(totals, u, x, drop, chunks=chunks)
    close(totals.sum(0), sums, dtype)
    expected = x.double() + dropped(u.double() @ exact, drop, probability, chunks)
    made.up(x, u, whole_of(factor), drop, x, chunks=chunks)
    close(x, expected, dtype)


@TYPES
@dropouts
@pytest.mark.parametrize(
    ("rows", "width", "rank", "tied", "wide"),
    [
        (40, 130, 5, 2, False), (64, 256, 40, 33, False), (9, 48, 3, 3, False),
        (40, 64, 48, 16, True), (40, 64, 32, 4, True),
    ],
)  # fmt: skip
def test_tied_rows_see_no_dropout(
    rows: int, width: int, rank: int, tied: int, wide: bool, dtype: torch.dtype, probability: float
) -> None:
    x, factor, u = operands(rows, width, rank, dtype)
    made, totals = kernels(wide=wide), torch.zeros(1, rank - tied, width, device=DEVICE)
    drop = made.drop(x, probability, 1) if probability else None
    kept, exact = dropped(x, drop, probability), factor.double()
    down = torch.cat([x.double() @ exact[:tied].T, kept @ exact[tied:].T], 1)
    close(made.down(x, whole_of(factor), drop, tied=tied), down, dtype)
    if tied < rank:
        made.outer(totals, u[:, tied:], x, drop)
        close(totals.sum(0), u[:, tied:].double().T @ kept, dtype)
    update = dropped(u[:, tied:].double() @ exact[tied:], drop, probability)
    expected = x.double() + u[:, :tied].double() @ exact[:tied] + update
    made.up(x, u, whole_of(factor), drop, x, tied=tied)
    close(x, expected, dtype)


PREPARED = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.float32, id="fp32"),
        pytest.param(
            torch.bfloat16, id="bf16", marks=pytest.mark.skipif(INTERPRETED, reason="the interpreter cuts off bits")
        ),
        pytest.param(torch.float16, id="fp16"),
    ],
)


@PREPARED
@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(7, 70, 1100), (5, 1040, 48), (1, 512, 3)])
def test_preparing(rows: int, d_in: int, d_out: int, dtype: torch.dtype) -> None:
    """The bits of the plain way, by the same kernels in every case."""
    made = kernels()
    for gated, written in product((False, True), ("all", "some rows", "B alone")):
        assert_prepares(made, (rows, d_in, d_out), dtype, gated, written)


def assert_prepares(made: Kernels, shape: tuple[int, int, int], dtype: torch.dtype, gated: bool, written: str) -> None:
    """Twice, from different factors; what lies between the rows stays."""
    from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels

    rows, d_in, d_out = shape
    generator, plain = torch.Generator().manual_seed(rows), TorchKernels(torch.device(DEVICE))
    shapes, places, length = ((rows, d_in), (rows, d_out), (rows,)), None, rows
    if written == "some rows":
        length = 2 * rows + 1
        places = 2 * torch.arange(rows, device=DEVICE) + 1
    found, wanted = (tuple(torch.ones(length, d, dtype=dtype, device=DEVICE) for d in (d_in, d_out)) for _ in range(2))
    for _ in range(2):
        A, B_t, c = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
        factors, before = (A, B_t, c if gated else None), A.clone()
        for each, (to_A, to_B_t) in ((made, found), (plain, wanted)):
            each.prepare(factors, A if written == "B alone" else to_A, to_B_t, 0.7, places=places)
        assert torch.equal(A, before)
        assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
        changed = [(one != 1).any(1).tolist() for one in found]
        theirs = [places is None or place in places for place in range(length)]
        assert changed == [[False] * length if written == "B alone" else theirs, theirs]


@shapes
def test_collecting(rows: int, width: int, rank: int) -> None:
    """Against the plain way, on widths that no block divides."""
    from dora_cli.methods.low_rank.arithmetic.kernels import TorchKernels

    generator = torch.Generator().manual_seed(width)
    width *= 9
    totals, B_t, c, grad_B_t, grad_c = (
        torch.randn(*shape, generator=generator).to(DEVICE)
        for shape in ((3, rows, width), (rows, width), (rows,), (rows, width), (rows,))
    )
    made = kernels()
    expected = grad_B_t + totals.sum(0)
    one, gradient = totals.clone(), grad_B_t.clone()
    made.collect(one, gradient)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    assert not one.any()
    wanted = grad_B_t.double(), grad_c.double()
    TorchKernels(torch.device(DEVICE)).collect_gated(
        totals.double().sum(0, keepdim=True), B_t.double(), c.double(), *wanted, 0.7
    )
    made.collect_gated(totals, B_t, c, grad_B_t, grad_c, 0.7)
    torch.testing.assert_close(grad_B_t, wanted[0].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_c, wanted[1].float(), rtol=1e-4, atol=1e-3)
    assert not totals.any()


def collected(made: Any, totals: torch.Tensor, *, gated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of ``s B diag(c)`` and of the gates, where `B` is 1, gates are 2 and `s` is 0.5."""
    gradient, grad_c = torch.zeros_like(totals[0]), torch.zeros_like(totals[0, :, 0])
    if gated:
        made.collect_gated(totals, torch.ones_like(gradient), grad_c + 2, gradient, grad_c, 0.5)
    else:
        made.collect(totals, gradient)
    return gradient, grad_c


@pytest.mark.parametrize("rows", [(70,), (300, 40), (5000,), (40, 5000)])
@pytest.mark.parametrize("gated", [False, True])
def test_what_is_collected_is_what_was_added(rows: tuple[int, ...], gated: bool) -> None:
    """In fewer partial sums where there are few rows; nothing is left of them, and all there are are collected where
    nobody has said how many.
    """
    made, width, rank, splits = kernels(), 48, 3, 8
    totals = torch.zeros(splits, 2 * rank, width, device=DEVICE)
    wanted = torch.zeros(2 * rank, width, dtype=torch.float64, device=DEVICE)
    for place, count in enumerate(rows):
        x, _, u = operands(count, width, rank, torch.float32)
        part = slice(place % 2 * rank, (place % 2 + 1) * rank)
        made.outer(totals[:, part], u, x, None)
        wanted[part] += u.double().T @ x.double()
    used = int((totals != 0).flatten(1).any(1).sum())
    assert used == (8 if max(rows) >= 4096 else min(4, -(-max(rows) // 256)))
    gradient, grad_c = collected(made, totals, gated=gated)
    close(gradient, wanted, torch.float32)
    if gated:
        close(grad_c, wanted.sum(1) / 2, torch.float32)
    assert not bool(totals.any())
    assert not any(bool(one.any()) for one in collected(made, totals, gated=gated))
    totals.fill_(1.0)
    assert torch.equal(collected(made, totals, gated=gated)[0], torch.full_like(totals[0], splits))


def test_every_projection_call_and_pass_has_a_mask_of_its_own() -> None:
    made = kernels()
    x = torch.ones(64, 64, device=DEVICE)
    seen = []
    for _ in range(2):
        made.begin()
        seen += [made.down(x, whole_of(torch.eye(64, device=DEVICE)), made.drop(x, 0.5, index)) for index in (0, 1, 1)]
    for index, one in enumerate(seen):
        assert {round(value, 4) for value in one.unique().tolist()} == {0.0, 2.0}
        for two in seen[:index]:
            assert abs(float((one == two).float().mean()) - 0.5) < 6 * 0.5 / 64


@TYPES
@dropouts
@pytest.mark.parametrize(("rank", "wide"), [(8, False), (16, True)])
def test_launches_that_are_known_compute_what_the_first_did(
    rank: int, wide: bool, dtype: torch.dtype, probability: float
) -> None:
    """The same sizes again with other values, seeds and places in memory, also ones that no wide load can begin at."""
    rows, width = 48, 64
    made = kernels(4, wide=wide)
    for turn, offset in enumerate((0, 0, 1, 1, 8, 0)):
        x, factor, u = (_elsewhere(tensor, offset) for tensor in operands(rows, width, rank, dtype))
        x.mul_(turn + 1)
        drop = made.drop(x, probability, turn % 4) if probability else None
        kept, totals = dropped(x, drop, probability), _elsewhere(torch.ones(rank, width, device=DEVICE), offset)[None]
        close(made.down(x, whole_of(factor), drop), kept @ factor.double().T, dtype)
        made.outer(totals, u, x, drop)
        close(totals[0], 1 + u.double().T @ kept, dtype)
        exact = x.double() + dropped(u.double() @ factor.double(), drop, probability)
        made.up(x, u, whole_of(factor), drop, x)
        close(x, exact, dtype)
    known = [launch for launch in made._launches.values() if launch._again is not None]
    assert len(known) == (0 if INTERPRETED else len(made._launches))


def _elsewhere(tensor: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy that begins `offset` entries after where memory is aligned."""
    room = torch.zeros(tensor.numel() + offset, dtype=tensor.dtype, device=tensor.device)
    return room[offset:].view(tensor.shape).copy_(tensor)


def test_a_dropout_within_a_backward_pass_is_refused() -> None:
    """A checkpoint that computes a forward pass again would drop other inputs the second time."""
    made = kernels()
    x = torch.ones(4, 16, device=DEVICE, requires_grad=True)
    x.register_hook(lambda gradient: made.drop(gradient, 0.3, 0) and None)
    with pytest.raises(ModelError, match="activation checkpointing"):
        x.sum().backward()


def test_no_dropout_below_the_resolution() -> None:
    assert kernels().drop(torch.ones(2, 2), 1e-12, 0) is None


@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(36, 70, 1040), (2, 2050, 16), (40, 2, 3)])
def test_variance_gradients(rows: int, d_in: int, d_out: int) -> None:
    """Against the same function in float64."""
    pytest.importorskip("triton")
    from dora_cli.methods.dora import importance, triton_importance

    generator = torch.Generator().manual_seed(rows)
    A, grad_A, B_t, grad_B_t = (
        torch.randn(rows, width, generator=generator).to(DEVICE) for width in (d_in, d_in, d_out, d_out)
    )
    wanted = grad_A.double(), grad_B_t.double()
    variances = importance.add_variance_gradients(wanted, (A.double(), B_t.double()), 0.3)
    found = triton_importance.add_variance_gradients((grad_A, grad_B_t), (A, B_t), 0.3)
    torch.testing.assert_close(found, variances.float(), rtol=1e-5, atol=1e-6)
    for gradient, exact in zip((grad_A, grad_B_t), wanted, strict=True):
        torch.testing.assert_close(gradient, exact.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("ranks", "d_in", "d_out"), [((3, 1, 0, 5), 70, 130), ((12, 12), 256, 48), ((40,), 33, 200)])
def test_published_scores(ranks: tuple[int, ...], d_in: int, d_out: int, *, gated: bool) -> None:
    """Against the same in float64, projections of other ranks beside each other; one has gates of 0."""
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank.allocation import triton_scores
    from dora_cli.methods.low_rank.allocation.scores import EPS, gram, scores_of_gram
    from dora_cli.methods.low_rank.layout import Layout

    generator, total = torch.Generator().manual_seed(d_in), sum(ranks)
    A, B_t = (torch.randn(total, width, generator=generator).to(DEVICE) for width in (d_in, d_out))
    c = torch.randn(total, generator=generator).to(DEVICE) if gated else None
    if c is not None:
        c[: ranks[0]] = 0
    layout = Layout(ranks, torch.device(DEVICE))
    gates = torch.ones(total, device=DEVICE) if c is None else c
    parts = [part.double().split(ranks) for part in (A, B_t, gates)]
    wanted = torch.cat([scores_of_gram(gram(a, b), gate) for a, b, gate in zip(*parts, strict=True)])
    found = triton_scores.published(A, B_t, c, layout, EPS)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-6)
    assert bool(found[: ranks[0]].any()) is not gated


@pytest.mark.parametrize("case", ["a column of tokens", "transposed", "an expanded gradient"])
def test_rows_that_do_not_follow_each_other_in_memory(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels read row after row; what reaches a projection need not lie so."""
    from dora_cli.methods.low_rank.lean import lean_pass as lean

    made = kernels(1)
    monkeypatch.setattr(lean, "kernels_for", lambda *_: made)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 20)).to(DEVICE)
    dora = new_dora(rank=2, dropout=0.0)
    dora.attach(model, sites({"0": model[0]}))
    torch.nn.init.normal_(dora.parameters()[2])
    x = torch.randn(4, 7, 24, device=DEVICE)
    if case != "an expanded gradient":
        x = x[:, 0] if case == "a column of tokens" else torch.randn(24, 9, device=DEVICE).T
    weights = torch.randn(20, device=DEVICE)

    def loss() -> torch.Tensor:
        for parameter in dora.parameters():
            parameter.grad = None
        y = model(x)
        value = y.sum() if case == "an expanded gradient" else (y * weights).sum()
        value.backward()
        return value

    plain = loss()
    expected = [parameter.grad.clone() for parameter in dora.parameters()]
    with dora.training_pass():
        found = loss()
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
    for parameter, gradient in zip(dora.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_without_a_c_compiler_plain_operations_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is there, but cannot build what launches its kernels."""
    pytest.importorskip("triton")
    from dora_cli.methods.dora import importance, triton_importance
    from dora_cli.methods.dora.regulariser import variance_gradients_for
    from dora_cli.methods.low_rank.arithmetic import kernels as chosen
    from dora_cli.methods.low_rank.arithmetic import triton_kernels

    def fail(index: int) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(triton_kernels, "_device_properties", fail)
    triton_kernels.obstacle.cache_clear()
    assert chosen.triton_obstacle() == "Failed to find C compiler. Please specify via CC environment variable."
    assert isinstance(chosen.kernels_for(cuda, torch.float32, 1, [4]), chosen.TorchKernels)
    assert variance_gradients_for(cuda, torch.float32) is importance.add_variance_gradients
    monkeypatch.setattr(triton_kernels, "_device_properties", lambda index: {"max_shared_mem": 232448})
    triton_kernels.obstacle.cache_clear()
    assert variance_gradients_for(cuda, torch.float32) is triton_importance.add_variance_gradients
    other = torch.device("cuda", 1)  # not the current device, where Triton would launch
    assert variance_gradients_for(other, torch.float32) is importance.add_variance_gradients
    triton_kernels.obstacle.cache_clear()


@pytest.mark.parametrize("memory", [65536, 101376, 232448])
@pytest.mark.parametrize("tied", [False, True])
def test_what_a_block_of_down_reads_has_room(memory: int, tied: bool) -> None:
    """All stages of both operands, one more of what is dropped, and of factors of which components are tied; parts only
    where their sums fit a warp's registers.
    """
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank.arithmetic.triton_narrow import down_blocks

    kinds = set()
    for rows, width, rank, threshold, size in product((64, 4096), (768, 3072), (16, 32, 128), (0, 9), (2, 4)):
        blocks = down_blocks(rows, width, rank, threshold, size, memory, tied=tied)
        each = blocks.stages * (blocks.rows + rank) + blocks.rows + rank * tied
        columns = blocks.parts * blocks.columns
        assert columns * each * size <= memory
        assert blocks.columns >= 16
        assert columns * 2 * each * size > memory or columns in (128, 256, 512)  # no fewer than fit
        assert blocks.parts == 1 or (rank, size, tied) == (16, 2, False)
        assert blocks.options["num_warps"] == (4 if blocks.parts == 1 else blocks.parts)
        kinds.add(blocks.parts)
    assert kinds == ({1} if tied else {1, 2, 4})
