"""The bound on a step of a weight: by explicit matrices, and over trainings."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from dora_cli.library.own_loop import shrink
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.step_bound import StepBound
from tests.methods.dora.test_adjusted_gradients import SETTINGS, STEPS
from tests.methods.small import SmallEncoder, Training, classification, new_dora

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SCALE = 1.7
SHAPES = [(14, 9, 3), (14, 9, 1), (6, 11, 2), (6, 11, 2)]
"""`d_out`, `d_in` and rank of four projections in two groups; ranks of the first differ."""
BOUND = 0.05


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """Projections whose factors move from `before`, each by a step of its own size."""

    def __init__(self, sizes: tuple[float, float, float, float]) -> None:
        self.sizes = sizes
        self.layers = []
        for index, (d_out, d_in, rank) in enumerate(SHAPES):
            base = nn.Linear(d_in, d_out, dtype=torch.float64)
            base.weight.data = 0.3 * drawn(d_out, d_in, seed=41 + index)
            A, B = drawn(rank, d_in, seed=1 + index), drawn(d_out, rank, seed=11 + index)
            self.layers.append(AdaptedProjection(base, A, B, scaling=SCALE, dropout=0.0))
        self.groups = [Components(self.layers[:2]), Components(self.layers[2:])]
        self.before = [(layer.A.detach().clone(), layer.B.detach().clone()) for layer in self.layers]
        self.steps = [
            (size * drawn(*layer.A.shape, seed=21 + index), size * drawn(*layer.B.shape, seed=31 + index))
            for index, (size, layer) in enumerate(zip(sizes, self.layers, strict=True))
        ]

    @torch.no_grad()
    def run(self, bound: StepBound) -> None:
        bound.stage(self.groups)
        for layer, (dA, dB) in zip(self.layers, self.steps, strict=True):
            layer.A.add_(dA)
            layer.B.add_(dB)
        bound.hold(self.groups)

    def moved(self, index: int, share: float = 1.0) -> float:
        """Relative change of a weight if `share` of its step had been made."""
        (A, B), (dA, dB), layer = self.before[index], self.steps[index], self.layers[index]
        change = SCALE * ((B + share * dB) @ (A + share * dA) - B @ A)
        return float(change.norm() / layer.base.weight.detach().norm())


def test_what_moves_too_far_moves_less_and_the_rest_as_it_would() -> None:
    case = Case((1e-4, 0.03, 1e-3, 0.05))
    assert [case.moved(index) > BOUND for index in range(4)] == [False, True, False, True]
    case.run(StepBound(BOUND, total_steps=9))
    for index, layer in enumerate(case.layers):
        (A, B), (dA, dB) = case.before[index], case.steps[index]
        share = min(1.0, BOUND / case.moved(index))
        torch.testing.assert_close(layer.A.detach(), A + share * dA, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.B.detach(), B + share * dB, rtol=1e-12, atol=1e-14)
        if share == 1:
            assert torch.equal(layer.A, A + dA), "not even the last digit is another"
            assert torch.equal(layer.B, B + dB)
        else:  # by the bound, but for what is of second order in the step
            assert case.moved(index, share) == pytest.approx(BOUND, rel=0.05)


def test_the_bound_falls_as_the_learning_rate_does_after_its_warm_up() -> None:
    shares = []
    for step in (1, 2, 8):
        case, bound = Case((0.05, 0.05, 0.05, 0.05)), StepBound(BOUND, total_steps=8)
        bound.begin_step(step, case.groups)
        case.run(bound)
        shares.append(float((case.layers[0].A.detach() - case.before[0][0]).norm() / case.steps[0][0].norm()))
    first, *others = shares
    assert others == pytest.approx([first * 7 / 8, first / 8])


def test_a_step_of_nothing_is_none_and_a_weight_of_zeros_holds_nobody() -> None:
    case = Case((0.0, 0.0, 1.0, 0.0))
    with torch.no_grad():
        case.layers[2].base.weight.zero_()
    case.run(StepBound(1e-9, total_steps=9))
    for index in (0, 1, 3):
        assert torch.equal(case.layers[index].A, case.before[index][0])
        assert torch.equal(case.layers[index].B, case.before[index][1])
    torch.testing.assert_close(case.layers[2].A.detach(), case.before[2][0] + case.steps[2][0])


def test_a_model_may_be_moved_between_steps() -> None:
    """Norms that lie elsewhere are made anew, as far as a machine without another device can show it."""
    case, bound = Case((0.05, 0.05, 0.05, 0.05)), StepBound(BOUND, total_steps=9)
    bound.begin_step(1, case.groups)
    bound._norms = {layer: norm.to("meta") for layer, norm in bound._norms.items()}
    bound._group_norms = {key: norms.to("meta") for key, norms in bound._group_norms.items()}
    case.run(bound)
    assert all(norm.device.type == "cpu" for norm in (*bound._norms.values(), *bound._group_norms.values()))


@pytest.mark.parametrize("rate", [1e-5, 3.0])
def test_no_step_of_a_training_moves_a_weight_further(rate: float) -> None:
    """Over events, after which ranks of a shape differ; whatever the rate is."""
    torch.manual_seed(0)
    training = Training(
        SmallEncoder(blocks=4).double(), new_dora(**SETTINGS, step_bound=BOUND), total_steps=STEPS, learning_rate=rate
    )
    dora, loss, held = training.dora, classification(), 0
    for step in range(1, STEPS + 1):
        training.optimizer.zero_grad()
        loss(training.model).backward()
        dora.begin_step(step, rate)
        before = {site.name: dora.delta(site, torch.float64) for site in dora.sites}
        dora.adjust_gradients()
        training.optimizer.step()
        dora.observe()
        for site in dora.sites:
            after, earlier = dora.delta(site, torch.float64), before[site.name]
            if after is None or earlier is None:
                continue
            moved = float((after - earlier).norm() / site.module.weight.norm())  # type: ignore[union-attr, operator]
            limit = BOUND * (STEPS - step + 1) / STEPS
            assert moved <= limit * (1 + BOUND)
            held += moved > 0.9 * limit
        shrink(training.optimizer, dora.advance(step))
    assert bool(held) == (rate > 1)


@pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU or the interpreter")
@pytest.mark.parametrize("ranks", [(4, 4), (1, 20, 7)], ids=str)
def test_triton(ranks: tuple[int, ...]) -> None:
    """Projections that are held and others that are not, as plain operations in float64 have it."""
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank import triton_step_bound

    d_in, d_out, count = 70, 130, sum(ranks)
    before = drawn(count, d_in, seed=1), drawn(count, d_out, seed=2)
    sizes = torch.tensor([(1e-4, 0.05)[index % 2] for index, rank in enumerate(ranks) for _ in range(rank)])[:, None]
    after = tuple(factor + sizes * drawn(*factor.shape, seed=3 + index) for index, factor in enumerate(before))
    norms, limit = torch.full((len(ranks),), 100.0), torch.tensor(BOUND)
    shares, first = [], 0
    for norm, rank in zip(norms.tolist(), ranks, strict=True):
        (A, B), (A_after, B_after) = ([factor[first : first + rank] for factor in pair] for pair in (before, after))
        shares.append(min(1.0, BOUND * norm / float((B_after.T @ A_after - B.T @ A).norm())))
        first += rank
    assert shares[0] == 1 > shares[1]
    found = tuple(factor.float().to(DEVICE) for factor in after)
    old = tuple(factor.float().to(DEVICE) for factor in before)
    rows = triton_step_bound.Rows(ranks, torch.device(DEVICE))
    triton_step_bound.hold(found, old, rows, norms.to(DEVICE), limit.to(DEVICE))
    each = torch.tensor([share for share, rank in zip(shares, ranks, strict=True) for _ in range(rank)])[:, None]
    for factor, one, other in zip(found, before, after, strict=True):
        expected = one + each * (other - one)
        torch.testing.assert_close(factor.cpu(), expected.float(), rtol=1e-4, atol=1e-5)
        assert torch.equal(factor[: ranks[0]].cpu(), other[: ranks[0]].float()), "what may move is as it was"
