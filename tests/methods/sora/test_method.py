"""SoRA behind its contract: start, groups, steps that count for nothing, what leaves memory, states and exports."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.errors import CheckpointError, ProjectionError
from dora_cli.methods import Sora
from dora_cli.methods.base import Site
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.training.optimizer import follow, make_optimizer
from tests.methods.small import SmallEncoder, linear_maps, live_ranks, new_sora, sites, small_encoder

NAMES = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("att", "up", "down")]
RANK, STEPS, XI = 4, 40, 0.05


def sora(**changes: Any) -> Sora:
    return new_sora(**({"rank": RANK, "alpha": 8.0, "gate_threshold": XI, "gate_penalty": 2.0} | changes))


def attached(method: Sora, model: SmallEncoder | None = None, *, seed: int = 0, total: int = STEPS) -> SmallEncoder:
    model = small_encoder() if model is None else model
    model.requires_grad_(False)
    head = list(model.head.requires_grad_(True).parameters())
    places = sites(linear_maps(model, "blocks"))
    method.attach(model, places, head, method.plan(total, places), seed=seed)
    return model


def inputs() -> torch.Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs())


def gates_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model.get_submodule(name).c for name in NAMES}  # type: ignore[misc]


def set_gates(model: nn.Module, values: dict[str, list[float]]) -> None:
    with torch.no_grad():
        for name, given in values.items():
            gates_of(model)[name].copy_(torch.tensor(given, dtype=torch.float64))


def scramble(method: Sora) -> None:
    """Puts a number other than 0 into every `B`."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


LEFT = {
    "blocks.0.att": [0.0, 0.5, 0.0, -0.2],
    "blocks.0.up": [0.0, 0.0, 0.0, 0.0],
    "blocks.0.down": [1.0, 2.0, -3.0, 4.0],
    "blocks.1.att": [0.0, 0.0, 0.0, 7.0],
    "blocks.1.up": [1e-30, 0.0, 0.0, 0.0],
    "blocks.1.down": [0.0, -0.0, 0.0, 0.0],
}
"""Gates of which three, two and four, one and one, and none in two projections live."""
RANKS = dict(zip(NAMES, [2, 0, 4, 1, 1, 0], strict=True))


def finished() -> tuple[Sora, SmallEncoder]:
    """At the last step, with the gates of `LEFT`, before that is counted."""
    method = sora()
    model = attached(method)
    scramble(method)
    set_gates(model, LEFT)
    return method, model


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_start_is_the_published_one() -> None:
    """``A`` as loralib draws it, of variance 1/(3 d_in), ``B = 0``, gates from N(0, 1)."""
    layer = nn.Linear(400, 30)
    method = new_sora(rank=2000)
    method.attach(nn.Sequential(layer), sites({"0": layer}))
    state = method.state_dict()
    A, B, c = state["0.A"], state["0.B"], state["0.c"]
    assert (A.shape, B.shape, c.shape) == ((2000, 400), (30, 2000), (2000,))
    assert {A.dtype, B.dtype, c.dtype} == {torch.float32}
    assert not B.any()
    assert 0.999 / 20 < A.abs().max() <= 1 / 20
    assert float(A.var()) == pytest.approx(1 / 1200, rel=0.01)
    # 2,000 draws: five standard errors of the mean, and of the standard deviation
    assert abs(float(c.mean())) < 5 / math.sqrt(2000)
    assert float(c.std()) == pytest.approx(1, abs=5 / math.sqrt(4000))


def test_a_fresh_model_computes_what_its_base_does_and_draws_from_its_seed_alone() -> None:
    model, expected = small_encoder(), answers(small_encoder())
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    method = sora()
    attached(method, model, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    assert torch.equal(answers(model), expected)
    layer = model.get_submodule("blocks.0.att")
    assert isinstance(layer, AdaptedProjection)
    assert layer.scaling == 8.0 / RANK
    torch.manual_seed(2)
    same, other = sora(), sora()
    attached(same, seed=7)
    attached(other, seed=8)
    mine, theirs, different = method.state_dict(), same.state_dict(), other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert not any(torch.equal(mine[name], different[name]) for name in mine if name.endswith((".A", ".c")))


def test_what_is_trained_is_on_one_device() -> None:
    places = [
        Site("here", nn.Linear(2, 2), (2, 2)),
        Site("there", nn.Linear(2, 2, device="meta"), (2, 2)),
    ]
    method = sora()
    with pytest.raises(ProjectionError, match="cpu, meta"):
        method.attach(nn.ModuleList(site.module for site in places), places, (), method.plan(10, places))


# -- groups ------------------------------------------------------------------------------------------------------------


def test_gates_have_their_own_rate_and_no_weight_decay() -> None:
    method = sora(gate_learning_rate_ratio=3.0)
    model = attached(method)
    optimizer = make_optimizer(method, learning_rate=1.0, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    main, sparse = optimizer.param_groups
    assert (main["rate"], main["weight_decay"], sparse["rate"], sparse["weight_decay"]) == (1.0, 0.1, 3.0, 0.0)
    assert {id(p) for p in sparse["params"]} == {id(gate) for gate in gates_of(model).values()}
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    everything = [*method.parameters(), *method.head]
    assert len(trained) == len(set(trained)) == len(everything)
    assert set(trained) == {id(p) for p in everything}


# -- a step ------------------------------------------------------------------------------------------------------------


def test_the_penalty_has_the_gradient_of_autograd() -> None:
    method = sora(gate_penalty=3.0)
    model = attached(method)
    set_gates(model, {"blocks.0.att": [0.0, -2.0, 0.5, 0.0]})
    gates = [gate.detach().clone().requires_grad_(True) for gate in gates_of(model).values()]
    penalty = 3.0 * torch.cat(gates).abs().mean()
    penalty.backward()
    found = method.adjust_gradients()
    assert found is not None
    torch.testing.assert_close(found, penalty.detach(), rtol=1e-14, atol=0)
    for gate, expected in zip(gates_of(model).values(), gates, strict=True):
        assert gate.grad is not None
        torch.testing.assert_close(gate.grad, expected.grad, rtol=1e-14, atol=0)
    assert gates_of(model)["blocks.0.att"].grad.tolist() == [0.0, -3.0 / 24, 3.0 / 24, 0.0]  # type: ignore[union-attr]
    method.adjust_gradients()  # adds to what is there, as a task's gradient is
    assert gates_of(model)["blocks.0.att"].grad.tolist() == [0.0, -6.0 / 24, 6.0 / 24, 0.0]  # type: ignore[union-attr]
    off = sora(gate_penalty=0.0)
    attached(off)
    assert off.adjust_gradients() is None


@pytest.mark.parametrize("threshold", ["soft", "official"])
def test_a_skipped_step_changes_nothing(threshold: Any) -> None:
    method = sora(threshold=threshold)
    model = attached(method)
    method.begin_step(1, 1e-3)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.observe(torch.tensor(True))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    method.observe(torch.tensor(False))
    taken = {name: gate.detach().clone() for name, gate in gates_of(model).items()}
    method.load_state_dict(before)
    method.observe()
    for name, gate in gates_of(model).items():
        assert torch.equal(gate, taken[name])
        assert not torch.equal(gate, before[f"{name}.c"])


def test_the_threshold_is_that_of_the_stage() -> None:
    method = sora(gate_threshold=0.0, max_gate_threshold=0.5, threshold_stages=3, first_stage_fraction=0.5)
    model = attached(method)
    method.begin_step(1, 1e-3)
    set_gates(model, {"blocks.0.att": [2.0, -2.0, 0.2, -0.4]})
    for step, left in ((20, [2.0, -2.0, 0.2, -0.4]), (21, [1.75, -1.75, 0.0, -0.15]), (31, [1.25, -1.25, 0.0, 0.0])):
        method.begin_step(step, 1e-3)
        method.observe()
        assert gates_of(model)["blocks.0.att"].tolist() == pytest.approx(left, rel=0, abs=1e-15)


# -- events and the end ------------------------------------------------------------------------------------------------


def test_live_is_a_gate_that_is_not_zero() -> None:
    method, model = finished()
    assert method.frozen, "any checkpoint may be evaluated, selected and exported"
    assert live_ranks(method) == RANKS
    report = method.advance(STEPS - 1)
    assert (report.event, report.live, report.budget, report.phase) == (True, 8, 8, "training")
    assert not report.replaced
    set_gates(model, {"blocks.0.up": [0.0, 1.0, 0.0, 0.0]})  # one comes back
    assert live_ranks(method)["blocks.0.up"] == 1
    scores = {item.name: item.scores for item in method.allocation()}
    assert scores["blocks.0.up"] == (0.0, 1.0, 0.0, 0.0)
    assert scores["blocks.0.att"] == pytest.approx((0.0, 0.5, 0.0, 0.2))
    size = method.size()
    assert size.stored == 2 * 20 + 1 * 24 + 4 * 24 + 20 + 24
    assert size.trained == RANK * 2 * ((20 + 1) + (24 + 1) + (24 + 1))


def test_only_events_count() -> None:
    method, model = finished()
    method = sora()
    model = attached(method, total=120)  # an event every 3 steps
    set_gates(model, LEFT)
    live = [method.advance(step).live for step in range(1, 7)]
    assert live == [24, 24, 8, 8, 8, 8]


def test_what_is_zero_leaves_memory_after_the_last_step() -> None:
    method, model = finished()
    optimizer = make_optimizer(method, learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    for parameter in (*method.parameters(), *method.head):
        parameter.grad = torch.randn_like(parameter) * 1e-9
    optimizer.step()
    set_gates(model, LEFT)
    before, moments = answers(model), {id(p): optimizer.state[p]["exp_avg"].clone() for p in method.parameters()}
    deltas = {site.name: method.delta(site, torch.float64) for site in method.sites}
    report = method.advance(STEPS)
    assert (report.event, report.live, report.frozen, report.changes_work) == (True, 8, False, True)
    follow(optimizer, method, report)
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-12)
    assert live_ranks(method) == RANKS
    for name in NAMES:
        module = model.get_submodule(name)
        assert isinstance(module, AdaptedProjection) == bool(RANKS[name]), "rank 0 is the base again"
        if RANKS[name]:
            assert module.rank == RANKS[name]
            assert module.gates.tolist() == [value for value in LEFT[name] if value]
    for site in method.sites:
        delta = method.delta(site, torch.float64)
        expected = deltas[site.name]
        assert expected is not None
        torch.testing.assert_close(torch.zeros_like(expected) if delta is None else delta, expected, rtol=0, atol=1e-12)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in (*method.parameters(), *method.head)}
    sliced = [item for item in report.replaced if item.new is not None]
    assert sliced
    for item in sliced:
        expected = moments[id(item.old)].index_select(item.dimension, item.kept)
        assert torch.equal(optimizer.state[item.new]["exp_avg"], expected)
    # blocks.0.att lost its components 0 and 2
    scores = {item.name: item.scores for item in method.allocation()}
    assert scores["blocks.0.att"] == pytest.approx((0.0, 0.5, 0.0, 0.2))
    assert scores["blocks.0.up"] == (0.0,) * 4


def test_all_gates_may_be_zero() -> None:
    method = sora()
    model = attached(method)
    plain = answers(model)
    scramble(method)
    set_gates(model, dict.fromkeys(NAMES, [0.0] * 4))
    report = method.advance(STEPS)
    assert (report.live, method.parameters(), method.to_lora(), method.size().stored) == (0, [], {}, 0)
    assert torch.equal(answers(model), plain)
    with method.training_pass():
        model(inputs()).sum().backward()
    method.adjust_gradients()
    method.observe(torch.tensor(False))
    (main, sparse) = method.groups()
    assert (list(sparse.parameters), [id(p) for p in main.parameters]) == ([], [id(p) for p in method.head])
    other = sora()
    fresh = attached(other, seed=5)
    other.load_state_dict(method.state_dict())
    assert torch.equal(answers(fresh), plain)


# -- exports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrunk", [False, True])
def test_plain_lora_leaves_out_gates_at_zero_and_is_exact(shrunk: bool) -> None:
    method, model = finished()
    if shrunk:
        method.advance(STEPS)
    factors = method.to_lora()
    assert {name: factor.rank for name, factor in factors.items()} == {n: rank for n, rank in RANKS.items() if rank}
    for site in method.sites:
        if site.name in factors:
            delta = method.delta(site, torch.float64)
            assert delta is not None
            product = factors[site.name].B.double() @ factors[site.name].A.double()
            torch.testing.assert_close(product, delta, rtol=1e-5, atol=1e-5)
    before = answers(model)
    with method.folded():
        torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-12)
    assert torch.equal(answers(model), before)
    method.merge()
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-12)
    assert not any(isinstance(module, AdaptedProjection) for module in model.modules())


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrunk", [False, True])
def test_a_state_comes_back_with_as_many_components_as_are_in_it(shrunk: bool) -> None:
    method, model = finished()
    if shrunk:
        method.advance(STEPS)
    else:
        method.advance(STEPS - 1)
        set_gates(model, {"blocks.0.up": [3.0, 0.0, 0.0, 0.0]})  # since the event
    state, training = method.state_dict(), method.training_state()
    held = {name: rank if shrunk else 4 for name, rank in RANKS.items()}
    assert state.keys() == {"keep"} | {f"{name}.{key}" for name in NAMES if held[name] for key in "ABc"}
    assert all(value.is_contiguous() for value in state.values())
    other = sora()
    fresh = attached(other, seed=9, total=120)  # so that the first step is no event
    other.load_state_dict({name: value.clone() for name, value in state.items()})
    other.load_training_state(training)
    again = other.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.items())
    assert torch.equal(answers(fresh), answers(model))
    assert other.allocation() == method.allocation()
    assert other.size() == method.size()
    assert other.advance(1).live == 8, "as the latest event has counted"


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (lambda state: state.pop("keep"), "tensor keep is missing"),
        (lambda state: state.update(keep=state["keep"].int()), "tensor keep is .*int32"),
        (lambda state: state.pop("blocks.0.att.c"), r"blocks\.0\.att\.c is missing"),
        (lambda state: state["keep"].fill_(True), r"blocks\.0\.att\.A is .*\(2, 10\)"),
        (lambda state: state["keep"][0].fill_(False), r"^tensor blocks\.0\.att\.A "),
        (lambda state: state.update({"blocks.0.up.A": torch.ones(1, 10)}), r"^tensor blocks\.0\.up\.A "),
        (lambda state: state.update({"blocks.0.att.A": state["blocks.0.att.A"].float()}), r"att\.A is .*float32"),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change: Any, tensor: str) -> None:
    method, _ = finished()
    method.advance(STEPS)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    change(state)
    other = sora()
    attached(other, seed=3)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=tensor):
        other.load_state_dict(state)
    after = other.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    "state",
    [{}, {"live": torch.tensor(2.0)}, {"live": torch.tensor(25)}, {"live": torch.tensor(2), "x": torch.ones(1)}],
)
def test_a_damaged_training_state_is_refused(state: dict[str, torch.Tensor]) -> None:
    method = sora()
    attached(method)
    with pytest.raises(CheckpointError):
        method.load_training_state(state)
