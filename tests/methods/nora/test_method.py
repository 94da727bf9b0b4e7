"""NoRA behind its contract: start, sizes, what its factors are, states stored and computed again."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.errors import BudgetError, CheckpointError, ModelError
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods.base import Site, Size
from dora_cli.methods.nora.layer import NestedProjection
from dora_cli.methods.nora.method import TOLERANCE
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.nora.running import NAMES, answers, attached, moments, new_nora, scramble
from tests.methods.small import classification, linear_maps, new_lora, sites, small_encoder

AWARE = {"outer": "activation-aware"}
BOTH_WAYS = pytest.mark.parametrize("outer", [{}, AWARE], ids=["plain", "aware"])


def layer_at(model: nn.Module, name: str) -> NestedProjection:
    layer = model.get_submodule(name)
    assert isinstance(layer, NestedProjection)
    return layer


# -- the start ---------------------------------------------------------------------------------------------------------


@BOTH_WAYS
def test_a_fresh_model_computes_what_its_base_does(outer: dict[str, Any]) -> None:
    expected = answers(small_encoder())
    method = new_nora(dropout=0.3, **outer)
    model = attached(method)
    assert torch.equal(answers(model), expected)
    with method.folded():
        assert torch.equal(answers(model), expected)
    method.merge()
    assert torch.equal(answers(model), expected)


def test_the_inner_factors_start_as_a_lora_of_so_many_features() -> None:
    """Kaiming-uniform with a = sqrt(5), of variance 1/(3 r)."""
    layer = nn.Linear(300, 260)
    method = new_nora(rank=100, outer_rank=250, alpha=50.0)
    method.attach(nn.Sequential(layer), sites({"0": layer}))
    state = method.state_dict()
    A, B = state["0.A"], state["0.B"]
    assert (A.shape, B.shape, A.dtype, B.dtype) == ((100, 250), (250, 100), torch.float32, torch.float32)
    assert not B.any()
    bound = 250**-0.5
    assert 0.99 * bound < A.abs().max() <= bound
    assert float(A.var()) == pytest.approx(1 / 750, rel=0.03)  # 25,000 draws
    assert layer_at(method._model, "0").scaling == 0.5


def test_the_start_comes_from_the_seed_and_the_weight_alone() -> None:
    torch.manual_seed(1)
    one, two, other = new_nora(), new_nora(), new_nora()
    model = small_encoder()
    state = torch.random.get_rng_state()
    attached(one, model, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    attached(two, seed=7)
    attached(other, seed=8)
    same, different = two.state_dict(), other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, same[name])
        assert torch.equal(value, different[name]) == (not name.endswith(".A")), "a seed draws `A` alone"


# -- sizes and ranks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "of_outer"),
    [
        ({}, 6 * (10 + 10 + 10 + 14 + 14 + 10)),
        ({"stored": False}, 6 * 3 * (4 + 4)),
        ({"stored": False, **AWARE}, 6 * 3 * (4 + 4) + 10 + 10 + 14),
    ],
)
def test_sizes_tell_what_trains_from_what_is_stored(settings: dict[str, Any], of_outer: int) -> None:
    """Two blocks of three projections, 10 to 10, 10 to 14 and 14 to 10, with r' = 2 and r = 6."""
    method = new_nora(**settings)
    attached(method)
    trained = 6 * (2 * 2 * 6)
    assert method.size() == Size(trained + 2 * of_outer, trained, 8 * (trained + 2 * of_outer))
    assert sum(parameter.numel() for parameter in method.parameters()) == trained
    assert sum(tensor.numel() for tensor in method.state_dict().values()) == method.size().stored
    assert sum(item.parameters or 0 for item in method.allocation()) == method.size().stored
    assert method.planned_size(method.sites, method.plan(5, method.sites)) == (trained, method.size().stored)
    assert [(item.name, item.start_rank, item.rank) for item in method.allocation()] == [(n, 2, 2) for n in NAMES]


def test_sizes_are_known_without_weights() -> None:
    with torch.device("meta"):
        model = small_encoder()
    method = new_nora()
    attached(method, model)
    assert method.size().trained == 6 * (2 * 2 * 6)


def test_an_outer_rank_that_a_weight_does_not_have_is_refused_by_name() -> None:
    places = sites(linear_maps(small_encoder(), "blocks"))
    assert new_nora(outer_rank=10).plan(5, places).start_components == 12
    with pytest.raises(BudgetError, match=r"outer_rank is 11.*blocks\.0\.att \(10 to 10\).*10 singular.*6 of 6"):
        new_nora(outer_rank=11).plan(5, places)
    # a site without a name stands for a model out of reach
    assert new_nora(outer_rank=11).plan(5, [Site("", nn.Module(), (2, 2))]).total_steps == 5


def test_a_weight_that_is_not_finite_is_refused_by_name() -> None:
    model = small_encoder()
    with torch.no_grad():
        model.blocks[1].att.weight[0, 0] = math.nan
    with pytest.raises(ModelError, match=r"blocks\.1\.att holds values that are not finite"):
        attached(new_nora(), model)


# -- what it computes --------------------------------------------------------------------------------------------------


@BOTH_WAYS
def test_it_is_a_lora_of_the_inner_rank(outer: dict[str, Any]) -> None:
    """Its update is ``s B_o B A A_o``; as plain LoRA exactly the same, of rank r'; folded, merged and read plainly
    alike.
    """
    method = new_nora(alpha=5.0, dropout=0.0, **outer)
    model = attached(method)
    scramble(method)
    state, factors, before = method.state_dict(), method.to_lora(), answers(model)
    for site in method.sites:
        A, B, A_o, B_o = (state[f"{site.name}.{key}"] for key in ("A", "B", "A_o", "B_o"))
        update = 2.5 * (B_o @ (B @ A) @ A_o)
        delta = method.delta(site, torch.float64)
        assert delta is not None
        torch.testing.assert_close(delta, update, rtol=0, atol=1e-11)
        assert torch.linalg.matrix_rank(delta) == 2
        factor = factors[site.name]
        assert (factor.rank, factor.A.dtype, factor.B.shape) == (2, torch.float32, (site.shape[0], 2))
        torch.testing.assert_close((factor.B.double() @ factor.A.double()), update, rtol=0, atol=1e-4)
        x = torch.randn(2, site.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        layer = layer_at(model, site.name)
        torch.testing.assert_close(layer(x), layer.base(x) + x @ update.T, rtol=1e-11, atol=1e-11)
    assert float((before - answers(small_encoder())).abs().max()) > 0.1
    with method.folded():
        torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-10)
    assert torch.equal(answers(model), before)
    method.merge()
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-10)


def test_the_update_stays_within_the_leading_singular_vectors() -> None:
    """Nothing is written outside the first r left vectors of the weight, and nothing read outside the right ones."""
    method = new_nora(outer_rank=4)
    model = attached(method)
    scramble(method)
    for site in method.sites:
        base = layer_at(model, site.name).base
        weight = base.weight if isinstance(base, nn.Linear) else base.weight.T
        U, _, Vh = torch.linalg.svd(weight)
        delta = method.delta(site, torch.float64)
        assert delta is not None
        size = float(delta.norm())
        assert float((U[:, 4:].T @ delta).norm()) < 1e-11 * size
        assert float((delta @ Vh[4:].T).norm()) < 1e-11 * size


def gradients(method: Any, model: nn.Module, lean: bool) -> list[torch.Tensor]:
    loss = classification()
    for parameter in method.parameters():
        parameter.grad = None
    if lean:
        with method.training_pass():
            loss(model).backward()
    else:
        loss(model).backward()
    return [parameter.grad.clone() for parameter in method.parameters()]


@pytest.mark.parametrize("singular_values", ["output", "both"])
def test_a_training_pass_gives_autograd_s_own_gradients(singular_values: Any) -> None:
    """Twice in a row: what the first has left is not added to the second."""
    method = new_nora(dropout=0.0, singular_values=singular_values)
    model = attached(method)
    scramble(method)
    expected = gradients(method, model, lean=False)
    for _ in range(2):
        for found, wanted in zip(gradients(method, model, lean=True), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    moved = model.to(torch.float32).to(torch.float64)  # parts every tensor from where it lay
    for found, wanted in zip(gradients(method, moved, lean=True), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_a_pass_that_failed_leaves_no_gradients() -> None:
    method = new_nora(dropout=0.0)
    model = attached(method)
    scramble(method)
    loss = classification()

    def gradients() -> list[torch.Tensor]:
        for parameter in method.parameters():
            parameter.grad = None
        with method.training_pass():
            loss(model).backward()
        return [parameter.grad.clone() for parameter in method.parameters()]

    def fail() -> None:
        with method.training_pass():
            loss(model).backward()
            raise MemoryError

    expected = gradients()
    with pytest.raises(MemoryError):
        fail()
    for found, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_a_training_pass_costs_the_products_of_a_lora_of_the_inner_rank() -> None:
    """What the pass computes with is of rank r', whatever r is; outer factors meet only the inner ones, once a pass."""
    method, lora = new_nora(outer_rank=9, dropout=0.0), new_lora(rank=2, dropout=0.0)
    for one in (method, lora):
        model = small_encoder().requires_grad_(False)
        one.attach(model, sites(linear_maps(model, "blocks")), seed=0)
    ours, theirs = method._adapters.groups(), lora._adapters.groups()
    assert [(group.A.shape, group.B_t.shape) for group in ours] == [(g.A.shape, g.B_t.shape) for g in theirs]


def test_a_copy_of_the_model_trains_by_itself() -> None:
    method = new_nora(dropout=0.0)
    attached(method)
    scramble(method)
    other = copy.deepcopy(method)
    assert other._model is not method._model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    expected = gradients(other, other._model, lean=False)
    for found, wanted in zip(gradients(other, other._model, lean=True), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not torch.equal(answers(other._model), answers(method._model))


# -- training ----------------------------------------------------------------------------------------------------------


def training(model: nn.Module, method: Any, total: int, rate: float, head: list[nn.Parameter]) -> TrainingStep:
    optimizer = make_optimizer(method, learning_rate=rate, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    return TrainingStep(
        model=model,
        method=method,
        loss=lambda outputs, batch: (outputs - batch["labels"]).square().mean(1),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=total // 10, total_steps=total),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=1.0,
    )


def test_a_skipped_step_changes_nothing() -> None:
    method, model = new_nora(dropout=0.0), small_encoder().requires_grad_(False)
    places = sites(linear_maps(model, "blocks"))
    head = list(model.head.requires_grad_(True).parameters())
    method.attach(model, places, head, method.plan(10, places), seed=0)
    step = training(model, method, 10, 1e-2, head)
    x, y = torch.randn(6, 10).double(), torch.randn(6, 3).double()
    step(1, [{"x": x, "labels": y}], 6, event=False)
    step(2, [{"x": x, "labels": y}], 6, event=False)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    step(3, [{"x": x * math.nan, "labels": y}], 6, event=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert float(before["blocks.0.att.B"].abs().max()) > 1e-3, "the steps before it did"


def test_a_teacher_s_changed_projections_are_learned() -> None:
    """The teacher's weights are changed by three components within their leading singular vectors, where this method
    can follow; the head alone, and a constant, cannot.
    """
    torch.manual_seed(3)
    student = small_encoder().float()
    teacher = copy.deepcopy(student)
    for block in teacher.blocks:
        for weight in (block.att.weight, block.down.weight):
            U, sigma, Vh = torch.linalg.svd(weight.detach(), full_matrices=False)
            change = torch.randn(6, 3) @ torch.randn(3, 6) / 6
            weight.data += (U[:, :6] * sigma[:6]) @ change @ Vh[:6]
    x = torch.randn(256, 10)
    y = teacher(x).detach()
    losses = {}
    for name in ("nora", "head"):
        model = copy.deepcopy(student).requires_grad_(False)
        head = list(model.head.requires_grad_(True).parameters())
        places = sites({key: module for key, module in linear_maps(model, "blocks").items() if name == "nora"})
        method = new_nora(rank=3, outer_rank=6, alpha=3.0, dropout=0.0)
        method.attach(model, places, head, method.plan(150, places), seed=0)
        step = training(model, method, 150, 3e-2, head)
        for number in range(1, 151):
            step(number, [{"x": x, "labels": y}], len(x), event=False)
        losses[name] = float(F.mse_loss(model(x).detach(), y))
    untouched = float(F.mse_loss(student(x).detach(), y))
    assert losses["head"] < untouched
    assert losses["nora"] < 0.2 * losses["head"]  # measured: 0.065


# -- states ------------------------------------------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("stored", [True, False])
def test_a_state_comes_back(stored: bool, outer: dict[str, Any]) -> None:
    one, two = new_nora(stored=stored, **outer), new_nora(stored=stored, **outer)
    model = attached(one, seed=1)
    scramble(one)
    state = {name: value.clone() for name, value in one.state_dict().items()}
    kept = ["A_o", "B_o"] if stored else ["A_sketch", "B_sketch", *(["scales"] if outer else [])]
    assert state.keys() == {f"{name}.{key}" for name in NAMES for key in ["A", "B", *kept]}
    assert all(value.is_contiguous() for value in state.values())
    other = attached(two, seed=2, fresh=False)
    assert not layer_at(other, NAMES[0]).A_o.any(), "no SVD is taken that a load replaces"
    two.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in two.state_dict().items())
    assert torch.equal(answers(model), answers(other))
    assert two.size() == one.size()


def test_stored_factors_are_taken_whatever_the_base_weight_says() -> None:
    """A resumed run goes on with the factors that it began with."""
    one, two = new_nora(), new_nora()
    attached(one)
    scramble(one)
    other = small_encoder(seed=9)
    attached(two, other, fresh=False)
    two.load_state_dict(one.state_dict())
    found = two.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in one.state_dict().items())


def test_signs_of_another_machine_s_svd_are_put_back() -> None:
    """The run's machine has given every second vector the other sign."""
    one, two = new_nora(stored=False), new_nora(stored=False)
    model = attached(one)
    scramble(one)
    for name in NAMES:
        layer = layer_at(model, name)
        layer.A_o[::2] *= -1
        layer.B_o[:, ::2] *= -1
    other = attached(two, fresh=False)
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(answers(other), answers(model), rtol=0, atol=1e-11)


def test_another_base_weight_is_refused_by_name_and_distance() -> None:
    one, two = new_nora(stored=False), new_nora(stored=False)
    attached(one)
    other = small_encoder()
    with torch.no_grad():
        other.blocks[1].up.weight += 0.1 * torch.randn(10, 14, dtype=torch.float64)
    attached(two, other, fresh=False)
    said = rf"outer factors of blocks\.1\.up .*stored: false.* are [\d.e-]+ of their size.*more than {TOLERANCE:g}"
    with pytest.raises(CheckpointError, match=said):
        two.load_state_dict(one.state_dict())
    assert not any(parameter.any() for name, parameter in two.state_dict().items() if name.endswith(".B"))


def test_what_rounding_changes_in_a_weight_is_within_the_tolerance() -> None:
    one, two = new_nora(stored=False), new_nora(stored=False)
    model = attached(one)
    scramble(one)
    other = small_encoder()
    with torch.no_grad():
        for name in NAMES:
            weight = other.get_submodule(name).weight
            weight *= 1 + 1e-7 * torch.randn(weight.shape, dtype=torch.float64)
    attached(two, other, fresh=False)
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(answers(other), answers(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "tensor"),
    [
        (lambda state: state.pop("blocks.0.up.B"), r"blocks\.0\.up\.B is missing"),
        (lambda state: state.pop("blocks.0.up.B_o"), r"blocks\.0\.up\.B_o is missing"),
        (lambda state: state.update({"blocks.0.up.A_o": torch.ones(5, 10).double()}), r"up\.A_o is .*\(5, 10\)"),
        (lambda state: state.update({"blocks.0.up.A": state["blocks.0.up.A"].float()}), r"up\.A is .*float32"),
        (lambda state: state.update({"blocks.0.up.c": torch.ones(3)}), r"^tensor blocks\.0\.up\.c "),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change: Any, tensor: str) -> None:
    method = new_nora()
    attached(method)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(CheckpointError, match=tensor):
        method.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_a_state_without_outer_factors_is_no_state_with_them() -> None:
    one, two = new_nora(stored=False), new_nora(stored=True)
    attached(one)
    attached(two, fresh=False)
    with pytest.raises(CheckpointError, match="A_o"):
        two.load_state_dict(one.state_dict())


# -- calibration -------------------------------------------------------------------------------------------------------


def test_inputs_are_asked_for_where_they_count() -> None:
    assert new_nora().calibration() is None
    wanted = new_nora(**AWARE, calibration_examples=40).calibration()
    assert wanted is not None
    assert (wanted.kind, wanted.examples) == ("inputs", 40)


def test_a_power_of_zero_is_the_plain_start() -> None:
    plain, aware = new_nora(), new_nora(**AWARE, activation_power=0.0)
    attached(plain)
    attached(aware, measured=moments())
    found = aware.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11)


def test_all_processes_take_the_first_one_s_outer_factors() -> None:
    method = new_nora(**AWARE)
    model = attached(method)
    shared = {id(tensor) for tensor in method.computed_start()}
    for name in NAMES:
        layer = layer_at(model, name)
        assert {id(layer.A_o), id(layer.B_o)} <= shared
    assert len(shared) == 3 * len(NAMES), "and the scales of the inputs"
