"""AdaLoRA behind its contract: how it starts, what a step does, ranks that shrink, and states that come back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.errors import CheckpointError, DivergedError
from dora_cli.methods import Adalora
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.recipe import parse_recipe
from tests.methods.adalora.running import Batch, Run, new_adalora
from tests.methods.small import linear_maps, live_ranks, sites, small_encoder

STEPS = 40  # W = 6, L = 14, F = 20; with interval 5: events at 10, 15, 20
both_ways = pytest.mark.parametrize("compact", [True, False])


class Encoder(nn.Module):
    """`small.SmallEncoder` as `Run` calls a model."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = small_encoder(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def batches(seed: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "x": torch.randn(16, 10, generator=generator, dtype=torch.float64),
            "labels": torch.randint(3, (16,), generator=generator),
        }
        for _ in range(4)
    ]


def method(**changes: Any) -> Adalora:
    return new_adalora(**({"rank": 2, "start_rank": 5, "prune_interval": 5} | changes))


def training(until: int = 0, *, seed: int = 0, **changes: Any) -> Run:
    run = Run(
        Encoder(seed), method(**changes), total_steps=STEPS, batches=batches(), within="blocks", head="inner.head"
    )
    run.run(1, until)
    return run


# -- the start ---------------------------------------------------------------------------------------------------------


def test_it_starts_with_the_base_model_and_small_normal_factors() -> None:
    model, fresh = Encoder(0), Encoder(0)
    adalora = new_adalora(rank=200, start_rank=300)
    maps = linear_maps(model, "blocks")
    adalora.attach(model, sites(maps), seed=5)
    x = batches()[0]["x"]
    assert torch.equal(model(x), fresh(x))
    for name in maps:
        layer = model.get_submodule(name)
        assert isinstance(layer, AdaptedProjection)
        assert not layer.gates.any()
        for factor in (layer.A, layer.B):
            entries = factor.numel()
            assert abs(float(factor.detach().mean())) < 4 * 0.02 / math.sqrt(entries)
            assert abs(float(factor.detach().std()) - 0.02) < 4 * 0.02 / math.sqrt(2 * entries)


def test_the_seed_decides_the_start() -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        model, adalora = Encoder(0), method()
        adalora.attach(model, sites(linear_maps(model, "blocks")), seed=seed)
        return {key: value.clone() for key, value in adalora.state_dict().items()}

    one, same, other = start(1), start(1), start(2)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["inner.blocks.0.att.A"], other["inner.blocks.0.att.A"])


@pytest.mark.parametrize(("rank", "start"), [(1, 2), (2, 3), (8, 12)])
def test_start_rank_and_scale(rank: int, start: int) -> None:
    adalora = new_adalora(rank=rank, alpha=32.0)
    assert adalora.start_rank == start
    assert adalora.scaling == 32.0 / (start + 1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_penalty_alone_moves_the_factors_while_gates_are_zero(weight: float) -> None:
    run = Run(
        Encoder(0),
        method(orthogonality_weight=weight),
        total_steps=STEPS,
        batches=batches(),
        within="blocks",
        head="inner.head",
        weight_decay=0.0,
    )
    before = run.state("inner.blocks.0.att.A")
    run.run(1, 2)  # at step 1 the learning rate is zero, so gates are so in both forward passes
    assert torch.equal(run.state("inner.blocks.0.att.A"), before) == (weight == 0)
    assert bool(run.state("inner.blocks.0.att.c").any())
    assert (run.penalties[0] is None) == (weight == 0)


# -- budgets -----------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("interval", [1, 5, 100])
def test_live_triplets_equal_the_budget_after_every_step(compact: bool, interval: int) -> None:
    run = training(compact=compact, prune_interval=interval)
    for step in range(1, STEPS + 1):
        report = run.step(step)
        assert sum(live_ranks(run.method).values()) == report.live == report.budget == run.schedule.budget(step)
        assert (report.phase, report.frozen) == (run.schedule.phase(step), step == 20)
        assert run.method.frozen == (step >= 20)
    assert list(run.keeps) == list(run.schedule.events())
    assert sum(live_ranks(run.method).values()) == 6 * 2


def test_a_masked_triplet_grows_again() -> None:
    run = training(until=10)
    masked = {name: run.state(f"{name}.c") == 0 for name in run.names()}
    assert (
        sum(int(mask.sum()) for mask in masked.values()) == 30 - run.schedule.budget(10) == 12
    )  # 12 + floor(18 (10 / 14)^3) are left
    run.step(11)
    assert all(bool((run.state(f"{name}.c")[mask] != 0).all()) for name, mask in masked.items())


def test_masked_gates_stay_zero_after_the_freeze_and_their_vectors_go_on_in_the_penalty() -> None:
    run = training(until=20, compact=False)
    keep, before = run.state("keep"), {name: run.state(f"{name}.A") for name in run.names()}
    run.run(21, 24)
    for row, name in enumerate(run.names()):
        assert not run.state(f"{name}.c")[~keep[row]].any()
        assert bool((run.state(f"{name}.A") != before[name]).any(1).all())
    assert torch.equal(run.state("keep"), keep)
    assert torch.equal(run.method.to_lora()[run.names()[0]].A, run.state(f"{run.names()[0]}.A")[keep[0]].float())


def test_compaction_leaves_the_kept_triplets_and_no_averages() -> None:
    run, masked = training(until=20), training(until=20, compact=False)
    keep, whole, small = masked.state("keep"), masked.method.state_dict(), run.method.state_dict()
    assert torch.equal(run.state("keep"), keep)
    for row, name in enumerate(masked.names()):
        if keep[row].any():
            assert torch.equal(small[f"{name}.A"], whole[f"{name}.A"][keep[row]])
            assert torch.equal(small[f"{name}.B"], whole[f"{name}.B"][:, keep[row]])
            assert torch.equal(small[f"{name}.c"], whole[f"{name}.c"][keep[row]])
    assert run.method.training_state() == masked.method.training_state() == {}


@both_ways
def test_a_projection_may_lose_all_its_triplets(compact: bool) -> None:
    run = training(until=19, compact=compact)
    name = "inner.blocks.0.up"
    layer = run.model.get_submodule(name)
    run.method.begin_step(20, 0.0)  # what takes the last scores
    row = run.names().index(name)
    run.method.state_dict()["scores"][row] = 0.0
    report = run.method.advance(20)
    assert report.frozen
    assert live_ranks(run.method)[name] == 0
    assert name not in run.method.to_lora()
    present = run.model.get_submodule(name)
    assert present is (layer.base if compact else layer)
    assert run.method.adjust_gradients() is not None  # over what is left
    assert {item.rank for item in run.method.allocation() if item.name == name} == {0}


def test_size_counts_live_factors() -> None:
    run = training(until=STEPS)
    size = run.method.size()
    shapes = {site.name: sum(site.shape) for site in run.method.sites}
    assert size.stored == sum(rank * shapes[name] for name, rank in live_ranks(run.method).items())
    assert size.trained == 5 * sum(total + 1 for total in shapes.values())


@both_ways
def test_merging_and_plain_lora_give_the_same_answers(compact: bool) -> None:
    run = training(until=24, compact=compact)
    x = batches(9)[0]["x"]
    run.model.eval()
    expected = run.model(x)
    with run.method.folded():
        torch.testing.assert_close(run.model(x), expected, rtol=1e-10, atol=1e-12)
    for site in run.method.sites:
        factors = run.method.to_lora().get(site.name)
        delta = run.method.delta(site, torch.float64)
        if factors is not None:
            torch.testing.assert_close((factors.B @ factors.A).double(), delta, rtol=1e-5, atol=1e-7)


# -- importance --------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_step_before_the_freeze() -> None:
    run = training(until=19)
    expected = torch.tensor([item.scores for item in run.method.allocation()], dtype=torch.float64)
    run.step(20)
    assert torch.equal(run.state("scores"), expected)
    run.run(21, 24)
    assert torch.equal(run.state("scores"), expected)


def test_between_events_scores_are_there_for_whoever_looks() -> None:
    run = training(until=3)
    scores = run.state("scores")
    assert bool((scores > 0).all())
    run.step(4)
    assert not torch.equal(run.state("scores"), scores)


def test_a_skipped_step_leaves_importance_as_it_was() -> None:
    run = training(until=7)
    before = {key: value.clone() for key, value in run.method.training_state().items()}
    weights = {name: run.state(f"{name}.A") for name in run.names()}
    bad = {**batches()[0], "x": batches()[0]["x"] * float("nan")}
    run.step(8, bad)
    assert all(torch.equal(value, before[key]) for key, value in run.method.training_state().items())
    assert all(torch.equal(run.state(f"{name}.A"), value) for name, value in weights.items())
    run.step(9)
    assert not torch.equal(run.method.training_state()["0.A.sensitivity"], before["0.A.sensitivity"])


def test_scores_that_are_not_finite_are_refused_and_nothing_is_selected() -> None:
    run = training(until=9)
    run.method.training_state()["0.A.uncertainty"].fill_(float("inf"))
    run.method.begin_step(10, 0.0)
    with pytest.raises(DivergedError, match="step 10"):
        run.method.advance(10)
    assert bool(run.state("keep").all())


def test_averages_follow_a_model_that_is_moved() -> None:
    run = training(until=4)
    before = {key: value.clone() for key, value in run.method.training_state().items()}
    run.model.float()
    after = run.method.training_state()
    assert before.keys() == after.keys()
    for key, value in after.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key].float())
    assert run.state("scores").dtype == torch.float32  # still to be computed when the model was moved


# -- states that come back ---------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("at", [10, 19, 20])
def test_a_loaded_state_trains_on_to_the_bit(at: int, compact: bool) -> None:
    straight, resumed = training(until=at, compact=compact), training(compact=compact)
    resumed.method.load_state_dict({key: value.clone() for key, value in straight.method.state_dict().items()})
    resumed.method.load_training_state({key: value.clone() for key, value in straight.method.training_state().items()})
    resumed.model.inner.head.load_state_dict(straight.model.inner.head.state_dict())
    # plain gradient steps, so that no optimiser has a state of its own
    for step in range(at + 1, STEPS + 1):
        for run in (straight, resumed):
            adalora, batch = run.method, run.batches[step % 4]
            adalora.begin_step(step, 0.1)
            for parameter in [*adalora.parameters(), *run.head]:
                parameter.grad = None
            with adalora.training_pass():
                nn.functional.cross_entropy(run.model(batch["x"]), batch["labels"]).backward()
            adalora.adjust_gradients()
            with torch.no_grad():
                for parameter in adalora.parameters():
                    parameter -= 0.1 * parameter.grad
            adalora.observe()
            adalora.advance(step)
    one, two = straight.method.state_dict(), resumed.method.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_state_without_its_averages_is_refused() -> None:
    run, other = training(until=3), training()
    other.method.load_state_dict(run.method.state_dict())
    with pytest.raises(CheckpointError, match=r"0\.A\.sensitivity"):
        other.method.load_training_state({})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.update(odd=torch.zeros(1)), "odd"),
        (lambda state: state.update({"0.c.uncertainty": torch.zeros(2)}), "0.c.uncertainty"),
        (lambda state: state["1.B_t.sensitivity"].fill_(-1.0), "1.B_t.sensitivity"),
        (lambda state: state["1.A.uncertainty"].fill_(float("nan")), "1.A.uncertainty"),
    ],
)
def test_a_damaged_training_state_is_refused_by_name(change: Any, word: str) -> None:
    run = training(until=3)
    state = {key: value.clone() for key, value in run.method.training_state().items()}
    change(state)
    with pytest.raises(CheckpointError, match=word):
        training().method.load_training_state(state)


def test_after_the_freeze_there_is_no_training_state() -> None:
    run = training(until=24)
    with pytest.raises(CheckpointError, match="keeps none"):
        run.method.load_training_state({"0.A.sensitivity": torch.zeros(1)})


# -- the recipe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ("rank: 0", "method.rank"),
        ("start_rank: 4", "method.start_rank"),
        ("orthogonality_weight: -0.1", "method.orthogonality_weight"),
        ("orthogonality_scale: squared", "method.orthogonality_scale"),
        ("sensitivity_beta: 1.0", "method.sensitivity_beta"),
        ("uncertainty_beta: -0.1", "method.uncertainty_beta"),
        ("final_fraction: 0.9", "method.final_fraction"),
        ("prune_interval: 0", "method.prune_interval"),
        ("dem_weight: 0.5", "method.dem_weight"),
    ],
)
def test_what_a_recipe_may_not_say(keys: str, named: str) -> None:
    from dora_cli.errors import RecipeError

    with pytest.raises(RecipeError, match=named):
        parse_recipe(f"task: glue/rte\nmodel: {{name: builtin:tiny-encoder}}\nmethod:\n  name: adalora\n  {keys}\n")
