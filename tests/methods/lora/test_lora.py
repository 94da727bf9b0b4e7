"""Plain LoRA behind its contract: start, scales, learning rates, draws and states."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.errors import CheckpointError
from dora_cli.machine.devices import make_accelerator
from dora_cli.machine.graphs import EAGER_FIRST
from dora_cli.methods import METHODS, Lora
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.models import find_projections
from dora_cli.recipe.methods import METHODS as SECTIONS
from dora_cli.recipe.methods import arguments
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import Batch, TrainingStep
from tests.methods.small import linear_maps, new_dora, new_lora, sites, small_encoder, tiny_gpt2, tiny_roberta

NAMES = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("att", "up", "down")]


def lora(**changes: Any) -> Lora:
    return new_lora(**({"rank": 3, "alpha": 6.0, "dropout": 0.0} | changes))


def attached(method: Lora, model: nn.Module | None = None, *, seed: int = 0) -> nn.Module:
    model = small_encoder() if model is None else model
    method.attach(model, sites(linear_maps(model, "blocks")), seed=seed)
    return model


def answers(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return model(torch.randn(5, 10, generator=generator, dtype=torch.float64))


def scramble(method: Lora) -> None:
    """Puts a number other than 0 into every `B`."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_start_is_that_of_loralib_and_peft() -> None:
    """Kaiming-uniform with a = sqrt(5): within 1/sqrt(d_in), of variance 1/(3 d_in); `B` is 0."""
    layer = nn.Linear(400, 30)
    method = new_lora(rank=50, alpha=8, dropout=0.0)
    method.attach(nn.Sequential(layer), sites({"0": layer}))
    state = method.state_dict()
    A, B = state["0.A"], state["0.B"]
    assert (A.shape, B.shape) == ((50, 400), (30, 50))
    assert (A.dtype, B.dtype) == (torch.float32, torch.float32)
    assert not B.any()
    assert 0.99 / 20 < A.abs().max() <= 1 / 20
    assert float(A.var()) == pytest.approx(1 / 1200, rel=0.03)  # 20,000 draws: 5 standard errors of 0.9 / sqrt(20000)
    assert abs(float(A.mean())) < 5 * math.sqrt(1 / 1200 / 20_000)


@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2])
def test_a_fresh_model_computes_what_its_base_does(build: Any) -> None:
    ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
    model = build().eval()
    expected = model(input_ids=ids).logits
    method = lora(dropout=0.3)
    places = find_projections(model)
    method.attach(model, places)
    assert all(isinstance(model.get_submodule(site.name), AdaptedProjection) for site in places)
    assert torch.equal(model(input_ids=ids).logits, expected)
    with method.folded():
        assert torch.equal(model(input_ids=ids).logits, expected)
    method.merge()
    assert torch.equal(model(input_ids=ids).logits, expected)


# -- ranks and scales --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["standard", "rank-stabilised"])
def test_every_projection_is_scaled_by_its_own_rank(scaling: Any) -> None:
    method = lora(scaling=scaling, ranks={"up": 1, "blocks.1.att": 4, "blocks.0.down": 0})
    model = attached(method)
    ranks = dict(zip(NAMES, [3, 1, 0, 4, 1, 3], strict=True))
    assert {item.name: item.rank for item in method.allocation()} == ranks
    assert {item.start_rank for item in method.allocation()} == {0, 1, 3, 4}
    scramble(method)
    state, factors = method.state_dict(), method.to_lora()
    assert factors.keys() == {name for name in NAMES if ranks[name]}
    assert type(model.get_submodule("blocks.0.down")) is nn.Linear, "rank 0 leaves a projection as it is"
    for name, factor in factors.items():
        layer, rank = model.get_submodule(name), ranks[name]
        scale = 6 / rank if scaling == "standard" else 6 / math.sqrt(rank)
        assert isinstance(layer, AdaptedProjection)
        assert layer.scaling == scale
        update = scale * state[f"{name}.B"] @ state[f"{name}.A"]
        torch.testing.assert_close((factor.B @ factor.A).double(), update, rtol=1e-5, atol=1e-5)
        x = torch.randn(2, layer.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(layer(x), layer.base(x) + x @ update.T, rtol=1e-12, atol=1e-12)
    before = answers(model)
    with method.folded():
        torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-12)
    assert torch.equal(answers(model), before)
    method.merge()
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-12)


# -- learning rates ----------------------------------------------------------------------------------------------------


class Steps:
    """A small model under `TrainingStep`, without weight decay; the first step moves every number by its rate."""

    RATE = 1e-3

    def __init__(self, ratio: float, *, device: str = "cpu", graph: bool = False) -> None:
        self.device = torch.device(device)
        model = tiny_roberta(dtype=torch.float32).to(self.device).train().requires_grad_(False)
        self.method = lora(learning_rate_ratio=ratio)
        head = list(model.classifier.requires_grad_(True).parameters())
        places = find_projections(model)
        self.method.attach(model, places, head, self.method.plan(100, places), seed=1)
        optimizer = make_optimizer(
            self.method, learning_rate=self.RATE, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-12
        )
        self.step = TrainingStep(
            model=model,
            method=self.method,
            loss=lambda outputs, batch: F.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none"),
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=100),
            accelerator=make_accelerator(self.device, "fp32"),
            max_grad_norm=None,
            cuda_graph=graph,
        )
        self.parts = {
            "A": [p for name, p in model.named_parameters() if name.endswith(".A")],
            "B": [p for name, p in model.named_parameters() if name.endswith(".B")],
            "head": head,
        }
        self.done = 0

    def batch(self) -> Batch:
        ids = torch.randint(3, 40, (8, 6), generator=torch.Generator().manual_seed(4))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}
        return {key: value.to(self.device) for key, value in batch.items()}

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.done += 1
            self.step(self.done, [self.batch()], 8, event=False)

    def snapshot(self) -> dict[str, torch.Tensor]:
        return {key: torch.cat([p.detach().flatten().clone() for p in part]) for key, part in self.parts.items()}


@pytest.mark.parametrize("ratio", [1.0, 16.0, 0.25])
def test_B_moves_as_many_times_as_far(ratio: float) -> None:
    """Adam's first step is the learning rate in size, whatever the gradient; `A`'s gradient is 0 while `B` is."""
    run = Steps(ratio)
    before = run.snapshot()
    run.advance(1)
    moved = {key: (value - before[key]).abs() for key, value in run.snapshot().items()}
    torch.testing.assert_close(moved["B"], torch.full_like(moved["B"], ratio * run.RATE), rtol=1e-3, atol=0)
    rate = moved["head"].max()
    assert float(rate) == pytest.approx(run.RATE, rel=1e-3)
    assert not moved["A"].any()
    (first, *rest) = run.step.optimizer.param_groups
    assert (first["rate"], [group["rate"] for group in rest]) == (1.0, [] if ratio == 1 else [ratio])
    trained = [id(p) for group in run.step.optimizer.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for part in run.parts.values() for p in part), "everything trains once"
    if rest:
        assert {id(p) for p in rest[0]["params"]} == {id(p) for p in run.parts["B"]}


def test_A_moves_at_the_run_s_rate() -> None:
    run = Steps(16.0)
    scramble(run.method)
    before = run.snapshot()
    run.advance(1)
    moved = (run.snapshot()["A"] - before["A"]).abs()
    assert float(moved.max()) == pytest.approx(run.RATE, rel=1e-3)
    assert float(moved.median()) == pytest.approx(run.RATE, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("ratio", [1.0, 16.0])
def test_captured_steps_follow_the_ratio(ratio: float) -> None:
    """Eager and captured steps from the same start end at the same weights, and `B` leads by the ratio."""
    eager, captured = (Steps(ratio, device="cuda", graph=graph) for graph in (False, True))
    start = captured.snapshot()
    for run in (eager, captured):
        run.advance(1)
    moved = (captured.snapshot()["B"] - start["B"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, ratio * Steps.RATE), rtol=1e-3, atol=0)
    for run in (eager, captured):
        run.advance(EAGER_FIRST + 10)
    found, expected = captured.snapshot(), eager.snapshot()
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)


# -- draws -------------------------------------------------------------------------------------------------------------


def test_the_start_comes_from_the_seed_alone() -> None:
    one, two, other = lora(), lora(), lora()
    model = small_encoder()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    attached(one, model, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    model = small_encoder()
    torch.manual_seed(2)
    attached(two, model, seed=7)
    attached(other, seed=8)
    same, different = two.state_dict(), other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, same[name])
        assert name.endswith(".B") or not torch.equal(value, different[name])


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_state_comes_back() -> None:
    settings = {"ranks": {"up": 1, "blocks.1.att": 4, "blocks.0.down": 0}}
    one, two = lora(**settings), lora(**settings)
    model, other = attached(one, seed=1), attached(two, seed=2)
    scramble(one)
    state = {name: value.clone() for name, value in one.state_dict().items()}
    assert state.keys() == {f"{name}.{key}" for name in NAMES if name != "blocks.0.down" for key in "AB"}
    two.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in two.state_dict().items())
    assert torch.equal(answers(model), answers(other))


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (lambda state: state.pop("blocks.0.up.B"), "blocks.0.up.B is missing"),
        (lambda state: state.update({"blocks.0.up.A": state["blocks.0.up.A"][:2]}), r"blocks.0.up.A is .*\(2, 10\)"),
        (lambda state: state.update({"blocks.0.up.A": state["blocks.0.up.A"].float()}), r"blocks.0.up.A is .*float32"),
        (lambda state: state.update({"blocks.0.up.c": torch.ones(3)}), r"^tensor blocks\.0\.up\.c "),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change: Any, tensor: str) -> None:
    method = lora()
    attached(method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(CheckpointError, match=tensor):
        method.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


# -- factors for a server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "lora-pro", "flat-lora"])
def test_the_factors_are_the_parameters_themselves(name: str) -> None:
    """Site by site, but for those of rank 0; what is written into them is what the model computes with."""
    settings = {"rank": 3, "alpha": 6.0, "dropout": 0.0, "ranks": {NAMES[0]: 0, NAMES[1]: 5}}
    method = METHODS[name](**(arguments(SECTIONS[name]()) | settings))
    model = attached(method)
    pairs = method.factors()
    assert [pair.name for pair in pairs] == NAMES[1:]
    assert [len(pair.A) for pair in pairs] == [5, 3, 3, 3, 3]
    assert {id(factor) for pair in pairs for factor in (pair.A, pair.B)} == set(map(id, method.parameters()))
    before = answers(model)
    with torch.no_grad():
        pairs[0].B.fill_(0.5)
    assert not torch.equal(answers(model), before)
    site = method.sites[1]
    scale = 6.0 / 5
    torch.testing.assert_close(method.delta(site, torch.float64), scale * pairs[0].B @ pairs[0].A)


def test_a_method_whose_ranks_change_gives_no_factors() -> None:
    method = new_dora()
    model = small_encoder()
    method.attach(model, sites(linear_maps(model, "blocks")))
    assert not method.factors()
