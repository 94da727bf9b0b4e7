"""DoRA behind its contract: the oracles of the method's reference, ranks that shrink, and states that come back."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError, ProjectionError
from dora_cli.methods import METHODS, Dora, HeadOnly, Lora
from dora_cli.methods.base import Measured
from dora_cli.methods.low_rank.allocation.scores import ema
from dora_cli.methods.low_rank.layer import AdaptedProjection
from tests.methods.small import (
    SmallEncoder,
    Training,
    classification,
    component_scores,
    linear_maps,
    live_ranks,
    new_dora,
    sites,
    small_encoder,
    tiny_gpt2,
    tiny_roberta,
)

STEPS = 40  # W = 6, L = 14, F = 20; events at 6, 11, 16, 20
LOSS = classification()
both_ways = pytest.mark.parametrize("compact", [True, False])


def method(**changes: Any) -> Dora:
    return new_dora(**({"rank": 2, "start_rank": 5, "dropout": 0.0, "prune_interval": 5} | changes))


def training(until: int = 0, *, seed: int = 0, **changes: Any) -> Training:
    run = Training(small_encoder(seed), method(**changes), total_steps=STEPS)
    run.run(1, until, LOSS)
    return run


def gates(dora: Dora) -> dict[str, torch.Tensor]:
    return {name.removesuffix(".c"): value.clone() for name, value in dora.state_dict().items() if name.endswith(".c")}


def uneven(run: Training) -> None:
    """Makes the first projection so weak that it loses every component, whatever the data."""
    name = next(iter(gates(run.dora)))
    layer = run.model.get_submodule(name)
    assert isinstance(layer, AdaptedProjection)
    layer.c.requires_grad_(False)  # stays at 0: so do its scores, below all others


@pytest.mark.parametrize("budget", ["components", "parameters"])
def test_an_upper_bound_leaves_enough_for_the_budget(budget: str) -> None:
    """A projection that is worth nothing must not lose for good what the others have no room for at the freeze."""
    run = training(start="lora", gates="fixed", score="norm", events=3, max_rank=2, dem_weight=0.0, budget=budget)
    layer = run.model.get_submodule(next(iter(live_ranks(run.dora))))
    assert isinstance(layer, AdaptedProjection)
    with torch.no_grad():
        layer.A.mul_(1e-6)
    run.run(1, STEPS, LOSS)
    assert set(live_ranks(run.dora).values()) == {2}  # the only ranks that fill it


# -- a guard -----------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("chosen", "uniform", "taken"),
    [(0.5, 0.6, "chosen"), (0.7, 0.6, "uniform"), (0.6, 0.6, "uniform"), (math.nan, 0.6, "uniform")],
)
def test_a_guard_takes_the_better_ranks(compact: bool, chosen: float, uniform: float, taken: str) -> None:
    """Uniform ranks are all there, whatever earlier events would have chosen."""
    run = training(compact=compact, guard=True)
    uneven(run)
    for step in range(1, 20):
        assert min(live_ranks(run.dora).values()) >= 2
        assert sum(live_ranks(run.dora).values()) == run.schedule.budget(step - 1)
        run.step(step, LOSS)
    report = run.step(20, LOSS)
    for loss in (chosen, uniform):
        assert report.wanted is not None
        run.dora.calibrate(Measured(loss=loss))
        report = run.dora.advance(20)
    assert report.frozen
    ranks = list(live_ranks(run.dora).values())
    assert sum(ranks) == 6 * 2
    assert ranks[0] == (0 if taken == "chosen" else 2)
    assert (set(ranks) == {2}) == (taken == "uniform")


def test_a_rotation_s_scores_stay_until_the_next_one() -> None:
    """Squared singular values of the update at the latest event, not a mean of these and of something else."""
    run = training(rotate="weight", start="lora", events=2, dem_weight=0.0)
    run.run(1, 13, LOSS)
    scores = [allocation.scores for allocation in run.dora.allocation()]
    updates = {site.name: run.dora.delta(site, torch.float64) for site in run.dora.sites}
    for allocation in run.dora.allocation():
        update = updates[allocation.name]
        if update is not None:
            singular = torch.linalg.svdvals(update)[: allocation.rank].square().tolist()
            assert sorted(allocation.scores, reverse=True)[: allocation.rank] == pytest.approx(singular)
    run.run(14, 19, LOSS)
    assert [allocation.scores for allocation in run.dora.allocation()] == scores
    run.run(20, 20, LOSS)
    assert [allocation.scores for allocation in run.dora.allocation()] != scores


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compact", "curve", "interval"),
    [
        (True, "published", 1), (False, "published", 5), (True, "published", 100),
        (False, "adalora", 1), (True, "adalora", 5), (False, "adalora", 100),
    ],
)  # fmt: skip
def test_live_components_equal_the_budget_after_every_step(compact: bool, curve: str, interval: int) -> None:
    run = training(compact=compact, curve=curve, prune_interval=interval)
    events, M, r0, rT, W, L = [], 6, 5, 2, 6, 14
    for step in range(1, STEPS + 1):
        report = run.step(step, LOSS)
        live = sum(live_ranks(run.dora).values())
        assert live == report.budget == run.schedule.budget(step)
        assert report.phase == run.schedule.phase(step)
        assert report.frozen == (step == run.schedule.freeze_step)
        if report.event:
            events.append(step)
            u = (step - W) / L
            assert live == M * r0 - int(M * (r0 - rT) * (u**3 if curve == "published" else 1 - (1 - u) ** 3) + 1e-9)
            zeroed = sum(int((gate == 0).sum()) for gate in gates(run.dora).values())
            assert zeroed == (0 if report.frozen and compact else M * r0 - live)
    assert events == list(run.schedule.events())
    assert sum(live_ranks(run.dora).values()) == M * rT
    assert run.dora.frozen


def test_before_the_first_event_everything_lives() -> None:
    run = training(until=5)
    allocation = run.dora.allocation()
    assert [item.name for item in allocation] == list(gates(run.dora))
    assert {item.rank for item in allocation} == {item.start_rank for item in allocation} == {5}
    assert {item.name: item.shape for item in allocation} == {
        f"blocks.{i}.{name}": shape
        for i in range(2)
        for name, shape in (("att", (10, 10)), ("up", (14, 10)), ("down", (10, 14)))
    }
    assert all(item.scores is not None and len(item.scores) == 5 and min(item.scores) > 0 for item in allocation)
    assert not run.dora.frozen


def test_scores_in_the_allocation_are_the_ema_of_the_closed_form() -> None:
    # Seen after the optimiser and before the mask, at every step up to and with the freeze.
    run = training(compact=False)
    expected = {name: torch.zeros(5, dtype=torch.float64) for name in gates(run.dora)}
    for step in range(1, 21):
        run.optimizer.zero_grad()
        LOSS(run.model).backward()
        run.dora.adjust_gradients()
        run.optimizer.step()
        state = run.dora.state_dict()
        for name in expected:
            expected[name] = ema(
                expected[name], component_scores(state[f"{name}.A"], state[f"{name}.B"], state[f"{name}.c"]), 0.9
            )
        run.dora.after_step(step)
    for item in run.dora.allocation():
        torch.testing.assert_close(
            torch.tensor(item.scores, dtype=torch.float64), expected[item.name], rtol=1e-12, atol=0
        )


@both_ways
def test_scores_rest_after_the_freeze(compact: bool) -> None:
    run = training(until=20, compact=compact)
    allocation = run.dora.allocation()
    run.run(21, 25, LOSS)
    assert run.dora.allocation() == allocation
    for item in allocation:  # by original position, whatever has been dropped
        assert item.scores is not None
        assert len(item.scores) == 5
    threshold = sorted(score for item in allocation for score in item.scores or ())[-12]  # M rT = 12 live
    assert all(sum(score >= threshold for score in item.scores or ()) == item.rank for item in allocation)


# -- soft pruning and the permanent mask -------------------------------------------------------------------------------


def test_a_zeroed_gate_grows_again_after_the_next_step() -> None:
    run = training(until=15)
    report = run.step(16, LOSS)
    assert report.event
    assert not report.frozen
    zeroed = {name: gate == 0 for name, gate in gates(run.dora).items()}
    assert sum(int(mask.sum()) for mask in zeroed.values()) == 6  # floor(6 * 3 * 10^3 / 14^3)
    run.step(17, LOSS)
    for name, gate in gates(run.dora).items():
        assert bool((gate[zeroed[name]] != 0).all())
    # Live is what the latest event selected, not what has a gate.
    assert sum(live_ranks(run.dora).values()) == run.schedule.budget(16) == 24


def test_a_pruned_component_can_come_back_at_a_later_event() -> None:
    run = training(until=11, curve="adalora")
    out = ~run.dora.state_dict()["keep"]
    assert int(out.sum()) == 13  # floor(18 * (1 - (9/14)^3))
    for step in range(12, 17):
        with torch.no_grad():  # what was pruned last is made by far the most important
            for row, name in enumerate(gates(run.dora)):
                run.model.get_submodule(name).c[out[row]] = 50.0
        run.step(step, LOSS)
    assert int(run.dora.state_dict()["keep"][out].sum()) >= 10


def test_masked_gates_are_zero_in_every_forward_of_the_final_phase() -> None:
    run = training(until=20, compact=False, dem_until="end")
    keep = run.dora.state_dict()["keep"].clone()
    assert int((~keep).sum()) == 18
    seen: list[torch.Tensor] = []
    for row, name in enumerate(gates(run.dora)):
        layer = run.model.get_submodule(name)
        layer.register_forward_pre_hook(lambda module, _, row=row: seen.append(module.c.detach()[~keep[row]].clone()))
    run.run(21, STEPS, LOSS)
    assert len(seen) == 6 * 20
    assert all(not gate.any() for gate in seen)
    assert torch.equal(run.dora.state_dict()["keep"], keep)
    # The optimiser alone would move them: their moments still hold the steps before.
    assert any(
        run.optimizer.state[run.model.get_submodule(name).c]["exp_avg"].abs()[~keep[row]].any()
        for row, name in enumerate(gates(run.dora))
    )


@both_ways
def test_live_components_still_train_after_the_freeze(compact: bool) -> None:
    run = training(until=20, compact=compact)
    before = {name: factors.B.clone() for name, factors in run.dora.to_lora().items()}
    run.run(21, 24, LOSS)
    for name, factors in run.dora.to_lora().items():
        assert not torch.equal(factors.B, before[name])


# -- what the regulariser adds -----------------------------------------------------------------------------------------


def regulariser_by_autograd(
    dora: Dora, scale: str, *, rows: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``eta R`` and its gradient by autograd of the formula; `rows` selects components."""
    total: Any = 0
    leaves: dict[str, torch.Tensor] = {}
    for row, name in enumerate(gates(dora)):
        for key, dimension in (("A", 1), ("B", 0)):
            leaf = dora.state_dict()[f"{name}.{key}"].clone().requires_grad_()
            leaves[f"{name}.{key}"] = leaf
            variances = ((leaf - leaf.mean(dimension, keepdim=True)) ** 2).sum(dimension) / (leaf.shape[dimension] - 1)
            total = total + (variances if rows is None else variances[rows[row]]).sum()
    value = 0.3 * total / ((2 if scale == "published" else 1) * 6 * 5)  # 2 M r0 or M r0
    return value, dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


@pytest.mark.parametrize("scale", ["published", "paper"])
def test_adjust_gradients_adds_dem_once(scale: str) -> None:
    run = training(until=3, dem_weight=0.3, dem_scale=scale)
    run.optimizer.zero_grad()
    LOSS(run.model).backward()
    before = {
        name: parameter.grad.clone() for name, parameter in run.model.named_parameters() if parameter.grad is not None
    }
    expected, gradients = regulariser_by_autograd(run.dora, scale)
    value = run.dora.adjust_gradients()
    assert value is not None
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    assert float(value.detach()) > 0
    for name, parameter in run.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, before[name] + gradients.get(name, 0), rtol=1e-11, atol=1e-14)


def test_dem_reaches_a_projection_that_the_batch_did_not() -> None:
    run = training(dem_weight=0.3)
    expected, gradients = regulariser_by_autograd(run.dora, "published")
    torch.testing.assert_close(run.dora.adjust_gradients(), expected, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(run.model.get_parameter(name).grad, gradient, rtol=1e-11, atol=1e-14)


@both_ways
@pytest.mark.parametrize("until", ["freeze", "end"])
def test_how_long_dem_lasts(compact: bool, until: str) -> None:
    run = training(until=19, compact=compact, dem_until=until)
    assert run.dora.adjust_gradients() is not None  # the freeze follows step 20, so DEM is still on in it
    run.step(20, LOSS)
    run.optimizer.zero_grad()
    LOSS(run.model).backward()
    assert (run.dora.adjust_gradients() is not None) == (until == "end")


@both_ways
@pytest.mark.parametrize("scale", ["published", "paper"])
def test_dem_after_the_freeze_counts_live_components_over_the_same_denominator(compact: bool, scale: str) -> None:
    run = training(until=20, compact=compact, dem_until="end", dem_weight=0.3, dem_scale=scale)
    keep = run.dora.state_dict()["keep"]
    rows = None if compact else keep
    if compact and len(gates(run.dora)) < 6:
        pytest.fail("this seed leaves a projection empty; the row order below would be off")
    expected, gradients = regulariser_by_autograd(run.dora, scale, rows=rows)
    run.optimizer.zero_grad()
    torch.testing.assert_close(run.dora.adjust_gradients(), expected, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(run.model.get_parameter(name).grad, gradient, rtol=1e-11, atol=1e-14)


def test_no_dem_without_weight() -> None:
    run = training(dem_weight=0.0)
    assert run.dora.adjust_gradients() is None
    assert all(parameter.grad is None for parameter in run.dora.parameters())


def test_masked_gradients_are_cleared_before_clipping() -> None:
    run = training(until=20, compact=False, dem_until="end")
    keep = run.dora.state_dict()["keep"]
    run.optimizer.zero_grad()
    LOSS(run.model).backward()
    names = list(gates(run.dora))
    raw = {name: run.model.get_submodule(name).c.grad.clone() for name in names}
    # what the published code would let into the norm
    assert any(bool(raw[name][~keep[row]].any()) for row, name in enumerate(names))
    run.dora.adjust_gradients()
    for row, name in enumerate(names):
        layer = run.model.get_submodule(name)
        assert not layer.c.grad[~keep[row]].any()
        assert not layer.A.grad[~keep[row]].any()
        assert not layer.B.grad[:, ~keep[row]].any()
        assert torch.equal(layer.c.grad[keep[row]], raw[name][keep[row]])


# -- skipped steps -----------------------------------------------------------------------------------------------------


def test_a_skipped_step_leaves_scores_and_gates_as_they_were() -> None:
    run = training(until=7)
    before = {key: value.clone() for key, value in run.dora.state_dict().items()}
    report = run.dora.after_step(8, torch.tensor(True))
    after = run.dora.state_dict()
    assert not report.event
    assert all(torch.equal(after[key], before[key]) for key in before)
    run.dora.after_step(9, torch.tensor(False))
    assert not torch.equal(run.dora.state_dict()["scores"], before["scores"])


def test_a_skipped_step_ignores_scores_that_are_not_finite() -> None:
    run = training(until=7)
    before = run.dora.state_dict()["scores"].clone()
    with torch.no_grad():
        run.dora.parameters()[0].fill_(float("nan"))
    run.dora.after_step(8, torch.tensor(True))
    assert torch.equal(run.dora.state_dict()["scores"], before)


@both_ways
def test_a_skipped_event_still_meets_the_budget_by_the_standing_scores(compact: bool) -> None:
    # T counts attempted steps, so an event that falls on a step skipped by the fp16 scaler is not put off.
    run = training(until=19, compact=compact)
    before = run.dora.state_dict()["scores"].clone()
    report = run.dora.after_step(20, torch.tensor(True))
    assert report.event
    assert report.frozen
    assert torch.equal(run.dora.state_dict()["scores"], before)
    assert sum(live_ranks(run.dora).values()) == run.schedule.final_components


# -- compaction --------------------------------------------------------------------------------------------------------


def test_compaction_drops_what_the_mask_drops() -> None:
    masked, compacted = training(until=19, compact=False), training(until=19, compact=True)
    masked.step(20, LOSS)
    report = compacted.step(20, LOSS)
    keep = masked.dora.state_dict()["keep"]
    assert torch.equal(keep, compacted.dora.state_dict()["keep"])
    whole, small = masked.dora.state_dict(), compacted.dora.state_dict()
    for row, name in enumerate(gates(masked.dora)):
        assert torch.equal(small[f"{name}.A"], whole[f"{name}.A"][keep[row]])
        assert torch.equal(small[f"{name}.B"], whole[f"{name}.B"][:, keep[row]])
        assert torch.equal(small[f"{name}.c"], whole[f"{name}.c"][keep[row]])
    assert report.replaced
    present = {id(parameter) for parameter in compacted.model.parameters()}
    for item in report.replaced:
        assert id(item.old) not in present
        assert item.new is not None
        assert id(item.new) in present
        assert item.new.requires_grad
        assert torch.equal(item.new, item.old.index_select(item.dimension, item.kept))
    assert {id(p) for p in compacted.trainable()} == {id(p) for p in [*compacted.dora.parameters(), *compacted.head]}


@both_ways
def test_projections_at_rank_0(compact: bool) -> None:
    run = training(compact=compact)
    name = "blocks.0.att"
    base = run.model.get_submodule(name).base
    uneven(run)
    run.run(1, STEPS, LOSS)
    ranks = live_ranks(run.dora)
    assert ranks[name] == 0
    assert sum(ranks.values()) == 12
    assert name not in run.dora.to_lora()
    if compact:  # its plain base again, and the optimiser has forgotten it
        assert run.model.get_submodule(name) is base
        assert type(base) is nn.Linear
        assert len(run.trainable()) == len(run.dora.parameters()) + 2 == 3 * 5 + 2
        assert len(run.optimizer.state) == len(run.trainable())
    else:
        assert not run.model.get_submodule(name).c.any()
    allocation = {item.name: item for item in run.dora.allocation()}
    assert allocation[name].start_rank == 5
    assert allocation[name].scores == (0.0,) * 5
    with run.dora.folded():
        folded = run.model(torch.ones(1, 10, dtype=torch.float64))
    torch.testing.assert_close(folded, run.model(torch.ones(1, 10, dtype=torch.float64)), rtol=1e-10, atol=1e-12)


class SharedModel(nn.Module):
    """One linear map under three names, as in ALBERT's repeated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.other = nn.Linear(6, 6)
        self.again = nn.ModuleList([self.shared, nn.Sequential(self.shared)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.shared, self.other, *self.again):
            x = torch.tanh(layer(x))
        return x


@both_ways
def test_a_shared_module_is_adapted_once_and_everywhere(compact: bool) -> None:
    torch.manual_seed(0)
    model = SharedModel().double()
    base = model.shared
    x = torch.randn(8, 6, dtype=torch.float64)
    loss = lambda m: (m(x) - 1).square().mean()  # noqa: E731
    run = Training(
        model,
        method(rank=1, start_rank=2, compact=compact),
        projections={"shared": model.shared, "other": model.other},
        total_steps=STEPS,
    )
    assert model.shared is model.again[0] is model.again[1][0]
    assert isinstance(model.shared, AdaptedProjection)
    assert len(run.dora.parameters()) == 6
    uneven(run)  # the shared one loses everything at the freeze
    run.run(1, 20, loss)
    assert live_ranks(run.dora) == {"shared": 0, "other": 2}
    if compact:
        assert model.shared is base is model.again[0] is model.again[1][0]
    run.run(21, 24, loss)


# -- exports -----------------------------------------------------------------------------------------------------------


def ready(run_until: int = 24, **changes: Any) -> Training:
    run = training(until=run_until, **changes)
    run.model.eval()
    return run


@both_ways
@pytest.mark.parametrize("until", [8, 24])
def test_merged_equals_unmerged(compact: bool, until: int) -> None:
    run = ready(until, compact=compact)
    x = torch.randn(16, 10, dtype=torch.float64)
    before = run.model(x)
    weights = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
    with run.dora.folded():
        merged = run.model(x)
    assert not torch.equal(merged, before)
    torch.testing.assert_close(merged, before, rtol=1e-11, atol=1e-12)
    assert torch.equal(run.model(x), before)
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())


def test_folding_ends_also_after_an_error() -> None:
    run = ready()
    x = torch.randn(2, 10, dtype=torch.float64)
    before = run.model(x)
    with pytest.raises(RuntimeError, match="inside"), run.dora.folded():
        raise RuntimeError("inside")
    assert torch.equal(run.model(x), before)


@both_ways
@pytest.mark.parametrize("until", [8, 24])
def test_plain_factors_give_the_same_weights(compact: bool, until: int) -> None:
    run = ready(until, compact=compact)
    factors, ranks = run.dora.to_lora(), live_ranks(run.dora)
    assert {name: factor.rank for name, factor in factors.items()} == (
        dict.fromkeys(ranks, 5) if until == 8 else {n: r for n, r in ranks.items() if r}
    )
    for name, factor in factors.items():
        layer = run.model.get_submodule(name)
        d_out, d_in = layer.out_features, layer.in_features
        assert (factor.A.shape, factor.B.shape) == ((factor.rank, d_in), (d_out, factor.rank))
        assert factor.A.dtype == factor.B.dtype == torch.float32
        torch.testing.assert_close(
            factor.B.double() @ factor.A.double(), layer.delta(layer.A.dtype), rtol=1e-5, atol=1e-6
        )


def test_plain_factors_do_not_change_when_training_goes_on() -> None:
    model = small_encoder(dtype=torch.float32)
    run = Training(model, method(), total_steps=STEPS)
    run.run(1, 3, LOSS)
    factors = run.dora.to_lora()
    copies = {name: (factor.A.clone(), factor.B.clone()) for name, factor in factors.items()}
    run.run(4, 6, LOSS)
    for name, factor in factors.items():
        assert torch.equal(factor.A, copies[name][0])
        assert torch.equal(factor.B, copies[name][1])


PEFT_MODELS = {
    "roberta": (tiny_roberta, "roberta.encoder", False),
    "gpt2": (tiny_gpt2, "transformer.h", True),
    "home-made": (lambda seed, dtype: small_encoder(seed, dtype), "blocks", None),
}


@both_ways
@pytest.mark.parametrize("kind", PEFT_MODELS)
def test_exported_adapter_equals_the_model_in_peft(kind: str, compact: bool) -> None:
    peft = pytest.importorskip("peft")
    make, within, transposed = PEFT_MODELS[kind]
    model = make(0, torch.float32)
    base = copy.deepcopy(model).eval()
    projections = linear_maps(model, within)
    if kind == "home-made":
        x = torch.randn(8, 10)
        call = lambda m: m(x)  # noqa: E731
    else:
        ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
        call = lambda m: m(input_ids=ids).logits  # noqa: E731
    target = torch.tensor([0, 1, 2, 0] * (2 if kind == "home-made" else 1))
    run = Training(
        model, method(compact=compact), projections=projections, total_steps=STEPS, head="no head trains here"
    )
    silent = next(iter(projections))
    run.model.get_submodule(silent).c.requires_grad_(False)
    run.run(1, 26, lambda m: nn.functional.cross_entropy(call(m), target))
    model.eval()
    factors = run.dora.to_lora()
    assert set(factors) == {name for name, rank in live_ranks(run.dora).items() if rank}
    assert silent not in factors
    assert len({factor.rank for factor in factors.values()}) > 1

    escaped = {re.escape(name): factor.rank for name, factor in factors.items()}
    config = peft.LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=list(factors),
        rank_pattern=escaped,
        alpha_pattern=dict(escaped),  # alpha = rank: a scale of exactly 1
        lora_dropout=0.0,
        **({} if transposed is None else {"fan_in_fan_out": transposed}),
    )
    with torch.no_grad():
        plain = call(base)
        wrapped = peft.get_peft_model(base, config).eval()
        layers = {
            name.removeprefix("base_model.model."): module
            for name, module in wrapped.named_modules()
            if hasattr(module, "lora_A")
        }
        assert layers.keys() == factors.keys()
        for name, factor in factors.items():
            layer = layers[name]
            assert layer.scaling["default"] == 1.0
            assert layer.lora_A["default"].weight.shape == factor.A.shape
            layer.lora_A["default"].weight.copy_(factor.A)
            layer.lora_B["default"].weight.copy_(factor.B)
        ours, theirs = call(model), call(wrapped)
        assert float((ours - plain).abs().max()) > 0.05
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(call(wrapped.merge_and_unload()), ours, rtol=1e-5, atol=2e-5)


# -- states ------------------------------------------------------------------------------------------------------------


PHASES = {"fresh": 0, "before events": 5, "after events": 13, "frozen": 20, "final": 24}


def revived(state: Mapping[str, torch.Tensor], run: Training, **changes: Any) -> tuple[SmallEncoder, Dora]:
    """A second process: the same base, other random adapters, then the state."""
    torch.manual_seed(99)
    model, dora = small_encoder(), method(**changes)
    projections = linear_maps(model, "blocks")
    dora.attach(model, sites(projections), schedule=dora.plan(STEPS, sites(projections)), seed=99)
    dora.load_state_dict({key: value.clone() for key, value in state.items()})
    model.head.load_state_dict(run.model.head.state_dict())
    return model, dora


@both_ways
@pytest.mark.parametrize("until", PHASES.values(), ids=PHASES.keys())
@pytest.mark.parametrize("silent", [False, True])
def test_a_state_comes_back(compact: bool, until: int, silent: bool) -> None:
    run = training(compact=compact)
    if silent:
        uneven(run)
    run.run(1, until, LOSS)
    state = run.dora.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    model, dora = revived(state, run, compact=compact)
    assert dora.frozen == run.dora.frozen == (until >= 20)
    assert dora.allocation() == run.dora.allocation()
    again = dora.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)
    x = torch.randn(4, 10, dtype=torch.float64)
    assert torch.equal(model.eval()(x), run.model.eval()(x))
    factors = dora.to_lora()
    assert all(
        torch.equal(factor.A, factors[name].A) and torch.equal(factor.B, factors[name].B)
        for name, factor in run.dora.to_lora().items()
    )
    assert {id(parameter) for parameter in dora.parameters()} <= {id(parameter) for parameter in model.parameters()}


@both_ways
@pytest.mark.parametrize("until", [5, 13, 22])
def test_training_goes_on_from_a_state_as_if_nothing_had_happened(compact: bool, until: int) -> None:
    run = training(until=until, compact=compact, dem_until="end")
    model, dora = revived(run.dora.state_dict(), run, compact=compact, dem_until="end")
    other = copy.copy(run)
    other.model, other.dora = model, dora
    model.requires_grad_(False)
    other.head = [parameter.requires_grad_() for parameter in model.head.parameters()]
    other.losses, other.norms = [], []
    for parameter in dora.parameters():
        parameter.requires_grad_()
    pairs = list(zip(run.trainable(), [*dora.parameters(), *other.head], strict=True))
    other.optimizer = torch.optim.AdamW([new for _, new in pairs], lr=1e-2, weight_decay=0.01, fused=True)
    saved = run.optimizer.state_dict()
    other.optimizer.load_state_dict(copy.deepcopy(saved))
    for step in range(until + 1, STEPS + 1):
        run.step(step, LOSS)
        other.step(step, LOSS)
    assert other.losses == run.losses[until:]
    state = run.dora.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in dora.state_dict().items())


def test_a_state_comes_back_after_the_model_was_moved() -> None:
    """The meta device stands for a GPU: scores and masks must be where the factors are, or the next step fails."""
    model = small_encoder()
    dora = new_dora(rank=2)
    dora.attach(model, sites(linear_maps(model, "blocks")))
    state = {key: value.clone() for key, value in dora.state_dict().items()}
    model.to("meta")
    dora.load_state_dict(state)
    chosen = dora._selection
    assert {tensor.device.type for tensor in (chosen.scores, chosen.keep, chosen.order)} == {"meta"}


def test_a_model_spread_over_devices_can_be_attached_and_folded() -> None:
    model = small_encoder()
    model.blocks[1].to("meta")
    dora = new_dora(rank=2)
    dora.attach(model, sites(linear_maps(model, "blocks")))
    assert [parameter.device.type for parameter in dora.parameters()] == ["cpu"] * 9 + ["meta"] * 9
    with dora.folded():
        assert model.blocks[0](torch.ones(3, 10, dtype=torch.float64)).shape == (3, 10)
    model = small_encoder()
    model.blocks[1].to("meta")
    projections = linear_maps(model, "blocks")
    schedule = new_dora(rank=2).plan(20, sites(projections))
    with pytest.raises(ProjectionError, match=r"spread over cpu, meta, .* without a device_map$"):
        new_dora(rank=2).attach(model, sites(projections), schedule=schedule)


@pytest.mark.parametrize("trained", [False, True], ids=["start", "frozen"])
def test_a_models_own_state_can_be_saved_by_others(trained: bool, tmp_path: Path) -> None:
    """Factors share memory, `B` transposed: safetensors refuses that, and Accelerate would leave all but one of them
    out.
    """
    training = Training(small_encoder(), new_dora(rank=2, dropout=0.0))
    if trained:
        training.run(1, training.schedule.freeze_step, classification())
    state = training.model.state_dict()
    assert all(tensor.is_contiguous() for tensor in state.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)
    save_file(state, tmp_path / "model.safetensors")
    kept = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        for parameter in training.dora.parameters():
            parameter.zero_()
    training.model.load_state_dict(kept)
    assert all(torch.equal(parameter, kept[name]) for name, parameter in training.model.named_parameters())


@pytest.mark.parametrize(
    ("saved", "loaded"), [(True, False), (False, True)], ids=["compacted into masked", "masked into compacted"]
)
def test_a_frozen_state_fits_either_setting_of_compact(saved: bool, loaded: bool) -> None:
    # `compact` changes memory, not a number: also not whether a state can be loaded and trained on.
    run = training(compact=saved, dem_until="end")
    uneven(run)
    run.run(1, 22, LOSS)
    model, dora = revived(run.dora.state_dict(), run, compact=loaded, dem_until="end")
    assert live_ranks(dora) == live_ranks(run.dora)
    assert {name: factor.rank for name, factor in dora.to_lora().items()} == {
        name: rank for name, rank in live_ranks(run.dora).items() if rank
    }
    LOSS(model).backward()
    optimizer = torch.optim.AdamW(dora.parameters(), lr=1e-2)
    dora.adjust_gradients()
    optimizer.step()
    dora.after_step(23)
    assert sum(int((gate != 0).sum()) for gate in gates(dora).values()) == 12


def state_of(until: int, **changes: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in _trained_state(until, **changes).items()}


@cache
def _trained_state(until: int, **changes: Any) -> Mapping[str, torch.Tensor]:
    return training(until=until, **changes).dora.state_dict()


def fresh(**changes: Any) -> Dora:
    model, dora = small_encoder(), method(**changes)
    dora.attach(model, sites(linear_maps(model, "blocks")))
    return dora


@both_ways
@pytest.mark.parametrize("until", [5, 22])
@pytest.mark.parametrize("key", ["scores", "keep", "frozen", "blocks.0.att.A", "blocks.1.up.B", "blocks.1.down.c"])
def test_a_missing_tensor_is_named(compact: bool, until: int, key: str) -> None:
    state = state_of(until, compact=compact)
    del state[key]
    with pytest.raises(CheckpointError, match=rf"tensor {re.escape(key)} is missing"):
        fresh(compact=compact).load_state_dict(state)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("blocks.0.att.A", lambda t: t[:, :-1], ["blocks.0.att.A", "(5, 9)", "(5, 10)"]),
        ("blocks.1.up.B", lambda t: t[:-1], ["blocks.1.up.B", "(13, 5)", "(14, 5)"]),
        ("blocks.1.down.c", lambda t: t[:-1], ["blocks.1.down.c", "(4,)", "(5,)"]),
        ("blocks.1.down.c", lambda t: t.float(), ["blocks.1.down.c", "torch.float32", "torch.float64"]),
        ("scores", lambda t: t[:, :-1], ["scores", "(6, 4)", "(6, 5)"]),
        ("keep", lambda t: t[:-1], ["keep", "(5, 5)", "(6, 5)"]),
        ("keep", lambda t: t.long(), ["keep", "torch.int64", "torch.bool"]),
        ("frozen", lambda t: t.int(), ["frozen", "torch.int32", "torch.bool"]),
    ],
)
def test_a_misfit_is_named_with_both_sides(key: str, change: Any, words: list[str]) -> None:
    state = state_of(5)
    state[key] = change(state[key])
    with pytest.raises(CheckpointError) as caught:
        fresh().load_state_dict(state)
    assert all(word in str(caught.value) for word in words)


def test_the_first_of_several_differences_is_named() -> None:
    state = state_of(5)
    state["blocks.0.up.A"] = state["blocks.0.up.A"][:1]
    state["blocks.1.att.A"] = state["blocks.1.att.A"][:1]
    with pytest.raises(CheckpointError, match=r"blocks\.0\.up\.A"):
        fresh().load_state_dict(state)


def test_a_projection_that_is_not_there_is_named() -> None:
    state = state_of(5)
    for key in "ABc":
        state[f"blocks.7.att.{key}"] = state[f"blocks.0.att.{key}"]
    with pytest.raises(CheckpointError, match=r"blocks\.7\.att"):
        fresh().load_state_dict(state)


def test_another_start_rank_is_a_misfit() -> None:
    with pytest.raises(CheckpointError, match="scores"):
        fresh(start_rank=6).load_state_dict(state_of(5))


@pytest.mark.parametrize("until", [5, 22])
def test_a_refused_state_changes_nothing(until: int) -> None:
    dora = fresh()
    before = {key: value.clone() for key, value in dora.state_dict().items()}
    state = state_of(until)
    state["blocks.1.down.c"] = state["blocks.1.down.c"].float()  # the very last tensor to be checked
    with pytest.raises(CheckpointError, match=r"blocks\.1\.down\.c"):
        dora.load_state_dict(state)
    after = dora.state_dict()
    assert not dora.frozen
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_dead_projections_factors_in_a_compacted_state_are_a_misfit() -> None:
    run = training()
    uneven(run)
    run.run(1, 22, LOSS)
    state = {key: value.clone() for key, value in run.dora.state_dict().items()}
    assert "blocks.0.att.A" not in state
    state["blocks.0.att.A"] = torch.zeros(1, 10, dtype=torch.float64)
    with pytest.raises(CheckpointError, match=r"^tensor blocks\.0\.att\.A "):
        fresh().load_state_dict(state)


# -- attaching ---------------------------------------------------------------------------------------------------------


def test_attaching_changes_no_output_and_only_adapters_train() -> None:
    model = small_encoder()
    x = torch.randn(4, 10, dtype=torch.float64)
    before = model(x).detach().clone()
    dora = method(dropout=0.3)
    projections = linear_maps(model, "blocks")
    dora.attach(model, sites(projections))
    assert torch.equal(model(x), before)
    assert [id(p) for p in dora.parameters()] == [
        id(getattr(model.get_submodule(n), k)) for n in projections for k in ("A", "B", "c")
    ]
    assert all(parameter.requires_grad for parameter in dora.parameters())


def test_attaching_freezes_the_projections_own_weights() -> None:
    # The contract: attach "decides which of their parameters train"; the layer wraps "a frozen linear map".
    model = small_encoder()
    projections = linear_maps(model, "blocks")
    method().attach(model, sites(projections))
    assert not [
        name
        for name, module in projections.items()
        if any(parameter.requires_grad for parameter in module.parameters())
    ]


def test_two_attachments_with_one_seed_are_equal() -> None:
    states = []
    for _ in range(2):
        model = small_encoder()
        torch.manual_seed(11)
        dora = method()
        dora.attach(model, sites(linear_maps(model, "blocks")))
        states.append(dora.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_two_runs_with_one_seed_are_bitwise_equal_with_dropout() -> None:
    states = []
    for _ in range(2):
        run = training(until=25, dropout=0.2)
        states.append((run.losses, run.dora.state_dict()))
    assert states[0][0] == states[1][0]
    assert all(torch.equal(states[0][1][key], states[1][1][key]) for key in states[0][1])


def test_scale_uses_the_start_rank_for_good() -> None:
    run = training(alpha=8.0)
    layers = [module for module in run.model.modules() if isinstance(module, AdaptedProjection)]
    assert {layer.scaling for layer in layers} == {8 / 5}
    run.run(1, 25, LOSS)
    assert {layer.scaling for layer in layers} == {8 / 5}
    assert len({layer.rank for layer in layers}) > 1


def test_training_without_a_schedule_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="schedule"):
        fresh().after_step(1)


def test_methods_are_known_by_name() -> None:
    assert (METHODS["dora"], METHODS["lora"], METHODS["head"]) == (Dora, Lora, HeadOnly)
    assert all(method.name == name for name, method in METHODS.items())


def test_training_the_head_alone_adapts_nothing() -> None:
    model, head = small_encoder(), HeadOnly()
    modules = list(model.modules())
    schedule = head.plan(10, [])
    head.attach(model, sites({}), schedule=schedule)
    assert list(model.modules()) == modules
    assert (schedule.total_steps, schedule.start_components, schedule.final_components, schedule.freeze_step) == (
        10,
        0,
        0,
        0,
    )
    assert schedule.phases == (("training", 1, 10),)
    assert {schedule.phase(step) for step in range(1, 11)} == {"training"}
    assert head.parameters() == []
    assert head.allocation() == []
    assert head.to_lora() == {}
    assert head.state_dict() == {}
    assert head.adjust_gradients() is None
    head.observe()
    report = head.advance(1)
    assert (report.phase, report.budget, report.event, report.frozen, tuple(report.replaced)) == (
        "training",
        0,
        False,
        False,
        (),
    )
    with head.folded():
        assert list(model.modules()) == modules
    with pytest.raises(BudgetError, match="0 optimiser steps"):
        head.plan(0, [])
