"""XGBLoRA behind its contract: start, what trains, knots, what is stored, states and exports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.errors import CheckpointError
from dora_cli.methods import Xgblora
from dora_cli.training.optimizer import follow, make_optimizer
from tests.methods.small import SmallEncoder, live_ranks, new_xgblora
from tests.methods.xgblora.small import block_sites

BLOCKS, LAYERS, RANK, STEPS = 5, 2, 2, 25
BOOSTERS = 5
"""floor(2 * 5 / 2), of 5 steps each."""
COSTS = {"att": 20, "up": 24, "down": 24}


def xgblora(**changes: Any) -> Xgblora:
    return new_xgblora(**({"rank": RANK, "layers": LAYERS, "alpha": 2.0, "norm_penalty": 0.0} | changes))


def encoder(seed: int = 0) -> SmallEncoder:
    torch.manual_seed(seed)
    return SmallEncoder(blocks=BLOCKS).double()


def attached(method: Xgblora, *, seed: int = 0, scheduled: bool = True) -> SmallEncoder:
    model = encoder().requires_grad_(False)
    head = list(model.head.requires_grad_(True).parameters())
    places = block_sites(model)
    method.attach(model, places, head, method.plan(STEPS, places) if scheduled else None, seed=seed)
    return model


def inputs() -> torch.Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs())


class Run:
    """The method under AdamW, in the order of the contract."""

    def __init__(self, *, seed: int = 0, **changes: Any) -> None:
        self.method = xgblora(**changes)
        self.model = attached(self.method, seed=seed)
        self.optimizer = make_optimizer(
            self.method, learning_rate=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8
        )

    def run(self, first: int, last: int) -> None:
        labels = torch.arange(6) % 3
        for step in range(first, last + 1):
            self.optimizer.zero_grad()
            with self.method.training_pass():
                F.cross_entropy(self.model(inputs()), labels).backward()
            self.method.adjust_gradients()
            self.optimizer.step()
            follow(self.optimizer, self.method, self.method.advance(step))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_start_of_a_booster_is_lora_s() -> None:
    """``a`` as loralib draws it, of variance 1/(3 d_in), ``b = 0``."""
    layer = nn.Linear(4000, 30)
    method = new_xgblora(rank=1)
    places = block_sites(nn.ModuleDict({"blocks": nn.ModuleDict({"0": nn.ModuleDict({"att": layer})})}))
    model = nn.ModuleDict({"blocks": nn.ModuleDict({"0": nn.ModuleDict({"att": layer})})})
    method.attach(model, places, (), method.plan(10, places))
    state = method.state_dict()
    A, B = state["blocks.0.att.A"], state["blocks.0.att.B"]
    assert (A.shape, B.shape, A.dtype) == ((1, 4000), (30, 1), torch.float32)
    assert not B.any()
    assert float(A.abs().max()) <= 4000**-0.5
    assert float(A.var()) == pytest.approx(1 / 12_000, rel=0.1)


def test_a_fresh_model_computes_what_its_base_does_and_draws_from_its_seed_alone() -> None:
    expected, states = answers(encoder()), []
    for seed, disturbance in ((0, 5), (0, 6), (1, 5)):
        model, method = encoder().requires_grad_(False), xgblora()
        places = block_sites(model)
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        method.attach(model, places, (), method.plan(STEPS, places), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(answers(model), expected)
        states.append(method.state_dict())
    assert same(states[0], states[1])
    assert not torch.equal(states[0]["subsets"], states[2]["subsets"])


# -- what trains -------------------------------------------------------------------------------------------------------


def needs_gradient(run: Run) -> list[bool]:
    """Whether the gradient of what each block gives is asked for, in a training pass."""
    seen: list[bool] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: seen.append(out.requires_grad)) for block in run.model.blocks
    ]
    with run.method.training_pass():
        run.model(inputs()).sum().backward()
    for hook in hooks:
        hook.remove()
    return seen


def test_nothing_trains_beside_the_booster_and_no_gradient_goes_below_it() -> None:
    """Also once the blocks below have tied components."""
    run = Run(seed=1)
    for end in range(0, STEPS, 5):
        subsets, state = run.method.state_dict()["subsets"], run.method.state_dict()
        booster = end // 5
        blocks = subsets[booster].nonzero().flatten().tolist()
        trained = {f"blocks.{block}.{name}" for block in blocks for name in COSTS}
        assert {key.removesuffix(".A") for key in state if key.endswith(".A")} == trained
        assert len(run.method.parameters()) == 2 * len(trained) == 2 * 3 * LAYERS
        lowest = min(int(name.split(".")[1]) for name in trained)
        assert needs_gradient(run) == [block >= lowest for block in range(BLOCKS)]
        run.run(end + 1, end + 5)
    assert run.method.parameters() == []
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [2], "the head"
    assert {int(key.split(".")[1]) for key in run.method.state_dict() if key.startswith("blocks.")} > {0}


def test_the_penalty_is_that_of_its_formula() -> None:
    run = Run(norm_penalty=0.03)
    run.run(1, 7)  # into the second booster
    method = run.method
    penalty = 0.03 / 2 * sum(parameter.square().sum() for parameter in method.parameters())
    expected = torch.autograd.grad(penalty, method.parameters())
    for parameter in method.parameters():
        parameter.grad = torch.ones_like(parameter)
    value = method.adjust_gradients()
    assert value is not None
    assert float(value) == pytest.approx(float(penalty.detach()), rel=1e-12)
    for parameter, gradient in zip(method.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 1 + gradient, rtol=1e-12, atol=0)
    run.run(8, STEPS)
    assert method.adjust_gradients() is None, "nothing is left to penalise"


# -- knots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [1.0, 0.25])
def test_a_booster_is_tied_at_its_step_size_and_the_next_begins_with_a_new_optimiser(step_size: float) -> None:
    run = Run(step_size=step_size, seed=3)
    method = run.method
    run.run(1, 4)
    before = {site.name: method.delta(site, torch.float64) for site in method.sites}
    labels, old = torch.arange(6) % 3, method.parameters()
    run.optimizer.zero_grad()
    F.cross_entropy(run.model(inputs()), labels).backward()
    run.optimizer.step()
    trained = {site.name: method.delta(site, torch.float64) for site in method.sites}
    answered = answers(run.model)
    report = method.advance(5)
    follow(run.optimizer, method, report)
    assert (report.event, report.frozen, report.phase, report.live) == (True, False, "boosting", 12)
    for site in method.sites:
        assert torch.allclose(method.delta(site, torch.float64), step_size * trained[site.name], rtol=1e-13, atol=0)
    assert any(not torch.equal(before[name], trained[name]) for name in before)
    assert torch.allclose(answers(run.model), answered, rtol=1e-12, atol=1e-12) == (step_size == 1)
    assert not run.optimizer.state, "moments of booster and head begin anew"
    assert not {id(parameter) for parameter in old} & {id(parameter) for parameter in method.parameters()}


def test_at_the_end_every_booster_is_tied_and_ranks_are_those_that_have_a_projection() -> None:
    run = Run(seed=4)
    method = run.method
    assert not method.frozen
    run.run(1, STEPS)
    assert method.frozen
    state, factors = method.state_dict(), method.to_lora()
    subsets = state["subsets"]
    assert subsets.shape == (BOOSTERS, BLOCKS)
    assert int(state["tied"]) == BOOSTERS
    for item, site in zip(method.allocation(), method.sites, strict=True):
        mine = [number + 1 for number, row in enumerate(subsets[:, site.block].tolist()) if row]
        assert (item.rank, item.links, item.start_rank) == (len(mine), tuple(mine), 0)
        if not mine:
            assert site.name not in factors
            continue
        pair = factors[site.name]
        assert pair.rank == len(mine)
        torch.testing.assert_close(
            pair.B.double() @ pair.A.double(), method.delta(site, torch.float64), rtol=1e-5, atol=1e-7
        )
    assert sum(live_ranks(method).values()) == BOOSTERS * LAYERS * 3


@pytest.mark.parametrize("seed", [0, 1])
def test_the_size_is_known_from_the_start(seed: int) -> None:
    run = Run(seed=seed)
    before = run.method.size()
    each = LAYERS * sum(COSTS.values())
    assert (before.stored, before.trained) == (BOOSTERS * each, each)
    run.run(1, STEPS)
    stored = sum(value.numel() for key, value in run.method.state_dict().items() if "tied_" in key)
    assert run.method.size().stored == before.stored == stored


def test_a_projection_that_no_booster_has_is_left_out_of_exports() -> None:
    run = Run(rank=1, layers=5, seed=0)  # one booster of everything
    assert len(run.method.to_lora()) == 15
    run = Run(rank=1, layers=3, seed=0)  # one booster of three blocks
    run.run(1, STEPS)
    assert len(run.method.to_lora()) == 9
    assert sorted(live_ranks(run.method).values()) == [0] * 6 + [1] * 9
    left = [site for site in run.method.sites if site.name not in run.method.to_lora()]
    assert all(not run.method.delta(site, torch.float64).any() for site in left)


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [3, 5, 12, 15, 24, 25], ids=lambda cut: f"after step {cut}")
def test_a_run_goes_on_as_if_it_had_not_been_cut(cut: int) -> None:
    """Within a round and exactly at a knot, to the last bit."""
    straight = Run(seed=5, norm_penalty=1e-3)
    straight.run(1, cut)
    state = {key: value.clone() for key, value in straight.method.state_dict().items()}
    generator = straight.method.generator.get_state()
    moments = [straight.optimizer.state.get(p, {}) for p in straight.optimizer.param_groups[0]["params"]]
    head = [parameter.detach().clone() for parameter in straight.method.head]

    again = Run(seed=5, norm_penalty=1e-3)
    again.method.load_state_dict(state)
    again.method.generator.set_state(generator)
    again.optimizer = make_optimizer(again.method, learning_rate=1e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    with torch.no_grad():
        for parameter, value in zip(again.method.head, head, strict=True):
            parameter.copy_(value)
    for parameter, kept in zip(again.optimizer.param_groups[0]["params"], moments, strict=True):
        if kept:
            again.optimizer.state[parameter] = {key: value.clone() for key, value in kept.items()}
    assert torch.equal(answers(again.model), answers(straight.model))
    assert again.method.allocation() == straight.method.allocation()
    straight.run(cut + 1, STEPS)
    again.run(cut + 1, STEPS)
    assert same(again.method.state_dict(), straight.method.state_dict())
    assert torch.equal(answers(again.model), answers(straight.model))


@pytest.mark.parametrize("end", [0, 12, 25])
def test_what_was_saved_is_evaluated_without_a_schedule(end: int) -> None:
    run = Run(seed=6)
    run.run(1, end)
    state = {key: value.clone() for key, value in run.method.state_dict().items()}
    assert all(value.is_contiguous() for value in state.values())
    other = xgblora()
    model = attached(other, seed=1, scheduled=False)
    other.load_state_dict(state)
    with torch.no_grad():
        for parameter, value in zip(other.head, run.method.head, strict=True):
            parameter.copy_(value)
    assert torch.equal(answers(model), answers(run.model))
    assert other.allocation() == run.method.allocation()
    assert other.frozen == run.method.frozen == (end == STEPS)
    assert same(other.state_dict(), state)


def _without(state: dict[str, torch.Tensor], part: str) -> None:
    state.pop(next(key for key in state if key.endswith(part)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("subsets"), "subsets"),
        (lambda state: state.update(subsets=state["subsets"].int()), "subsets .*int32"),
        (lambda state: state.update(subsets=state["subsets"][:4]), "subsets"),
        (lambda state: state.pop("tied"), "tensor tied is missing"),
        (lambda state: state["tied"].fill_(6), "6 of 5 boosters"),
        (lambda state: state["tied"].fill_(1), r"^tensor blocks\.\d\.\w+\.(tied_)?A "),
        (lambda state: _without(state, ".tied_A"), r"tied_A is missing"),
        (lambda state: _without(state, ".B"), r"\.B is missing"),
        (lambda state: state.update({"blocks.9.att.A": torch.ones(1, 10)}), r"^tensor blocks\.9\.att\.A "),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change: Any, named: str) -> None:
    run = Run(seed=7)
    run.run(1, 12)
    state = {key: value.clone() for key, value in run.method.state_dict().items()}
    change(state)
    other = xgblora()
    model = attached(other, seed=2)
    before, answered = {key: value.clone() for key, value in other.state_dict().items()}, answers(model)
    with pytest.raises(CheckpointError, match=named):
        other.load_state_dict(state)
    assert same(other.state_dict(), before)
    assert torch.equal(answers(model), answered)
