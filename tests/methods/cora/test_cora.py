"""CoRA behind its contract: bases, start, sizes, what is refused, identities, what it learns, states."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.errors import BudgetError, CheckpointError, ModelError, RecipeError
from dora_cli.methods import Cora
from dora_cli.methods.base import Site
from dora_cli.models import find_projections
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import about
from tests.methods.cora.places import attached, cora, encoder, moved
from tests.methods.small import linear_maps, tiny_gpt2, tiny_roberta

WIDTHS = {"att": 10, "up": 14, "down": 10}


def directions(rank: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return {
        part: torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))[0]
        for part, width in WIDTHS.items()
    }


def scramble(method: Cora) -> None:
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


# -- bases and the start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2])
@pytest.mark.parametrize("trained", [False, True])
def test_a_fresh_model_computes_what_its_base_does(build: Any, trained: bool) -> None:
    """`B` is not zero, so `A` is."""
    ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
    model = build().eval()
    expected = model(input_ids=ids).logits
    method = cora(dropout=0.3, train_basis=trained)
    sites = find_projections(model)
    method.attach(model, sites)
    for site in sites:
        layer = model.get_submodule(site.name)
        assert layer.B.any()
        assert not layer.A.any()
        assert layer.B.requires_grad is trained
    assert torch.equal(model(input_ids=ids).logits, expected)
    with method.folded():
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_projections_of_a_role_and_a_width_share_an_orthonormal_basis() -> None:
    model = tiny_roberta()
    method = cora()
    sites = find_projections(model)
    method.attach(model, sites)
    found = {site.name: model.get_submodule(site.name).B.detach() for site in sites}
    for one in sites:
        B = found[one.name]
        torch.testing.assert_close(B.T @ B, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
        for other in sites:
            same = (one.role, one.shape[0]) == (other.role, other.shape[0])
            assert torch.equal(B, found[other.name]) == same, (one.name, other.name)
    assert {site.role for site in sites} == {"query", "key", "value", "output", "up", "down"}
    keys = [key for key in method.state_dict() if key.startswith("basis.")]
    assert keys == [f"basis.{kind}" for kind in ("query.16", "key.16", "value.16", "output.16", "up.24", "down.16")]


def test_what_models_were_changed_by_in_common_is_found() -> None:
    """Two models differ from the base in the same three directions of each kind, by unlike amounts."""
    base, planted = encoder(), directions()
    others = [moved(base, planted, seed) for seed in (1, 2)]
    method = cora(models=["a", "b"], aggregate="differences")
    for site in attached(method, base, *others):
        U, B = planted[site.name.rpartition(".")[2]], base.get_submodule(site.name).B.detach()
        torch.testing.assert_close(B @ B.T, U @ U.T, rtol=0, atol=1e-10)


def test_the_update_stays_in_a_frozen_subspace_and_leaves_it_where_the_basis_trains() -> None:
    for trained in (False, True):
        model, start = encoder(), encoder()
        method = cora(train_basis=trained)
        attached(cora(), start)
        sites = attached(method, model)
        scramble(method)
        for site in sites:
            B = start.get_submodule(site.name).B.detach()
            update = method.delta(site, torch.float64)
            assert update is not None
            outside = update - B @ (B.T @ update)
            assert (outside.abs().max() < 1e-12) is not trained


def test_bases_are_what_processes_take_from_the_first() -> None:
    model, method = encoder(), cora()
    sites = attached(method, model)
    found = method.computed_start()
    assert all(one is model.get_submodule(site.name).B for one, site in zip(found, sites, strict=True))


def test_a_model_that_is_loaded_into_computes_no_basis() -> None:
    model = encoder()
    method = cora(models=["gone"])
    for site in attached(method, model, fresh=False):
        assert not model.get_submodule(site.name).B.any()


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "trained", "stored"),
    [
        # two blocks of 10 to 10, 10 to 14 and 14 to 10; a basis for each of three roles
        ({}, 3 * 2 * (10 + 10 + 14), 3 * (10 + 14 + 10)),
        ({"common_to": "projection"}, 3 * 2 * (10 + 10 + 14), 3 * 2 * (10 + 14 + 10)),
        ({"train_basis": True}, 3 * 2 * (10 + 10 + 14 + 10 + 14 + 10), 0),
    ],
)
def test_stored_is_a_basis_once_however_many_share_it(options: dict[str, Any], trained: int, stored: int) -> None:
    model, method = encoder(), cora(**options)
    sites = attached(method, model)
    schedule = method.plan(9, sites)
    assert (schedule.start_components, schedule.final_components) == (18, 18)
    size = method.size()
    assert (size.trained, size.stored, size.bytes) == (trained, trained + stored, 8 * (trained + stored))
    assert method.planned_size(sites, schedule) == (trained, trained + stored)
    alone = sum(item.parameters if item.parameters is not None else 3 * sum(item.shape) for item in method.allocation())
    assert alone == trained + (0 if options == {} else stored), "what is shared belongs to no projection alone"


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_rank_that_no_space_has_is_refused_before_weights_are_there() -> None:
    sites = [replace(site, module=nn.Module()) for site in attached(cora(), encoder())]
    assert cora(rank=10).plan(3, sites).total_steps == 3
    with pytest.raises(BudgetError) as refusal:
        cora(rank=11).plan(3, sites)
    assert str(refusal.value) == (
        "method.rank is 11, more than the dimensions of 2 of 3 common subspaces: 10 (query.10), 10 (down.10); lower it "
        "to at most 10"
    )
    assert cora(rank=300).plan(3, [Site("", nn.Module(), (2, 2))]).total_steps == 3, "a model out of reach"


def test_a_rank_that_the_models_do_not_have_in_common_is_refused_by_name() -> None:
    base = encoder()
    other = moved(base, directions(), 1)
    with pytest.raises(BudgetError, match=r"3 of 3 .* 3 \(query.10\), 3 \(up.14\), 3 \(down.10\); lower.* 3,"):
        attached(cora(rank=4, models=["a"], aggregate="differences"), base, other)
    base.blocks[1].down.weight.add_(1)
    base.blocks[0].down.weight.copy_(other.blocks[0].down.weight)
    other.blocks[1].down.weight.copy_(base.blocks[1].down.weight)
    with pytest.raises(BudgetError, match=r"1 of 3 .* 0 \(down.10\); leave"):
        attached(cora(rank=3, models=["a"], aggregate="differences"), base, other)


def test_rounding_is_no_direction() -> None:
    """In fp32 a difference of three directions has as many, not those that rounding brings."""
    base = encoder()
    other = moved(base, directions(), 1).float()
    for normalise in (True, False):
        options = {"models": ["a"], "aggregate": "differences", "normalise": normalise}
        attached(cora(rank=3, **options), copy.deepcopy(base).float(), other)
        with pytest.raises(BudgetError, match=r"3 \(query.10\)"):
            attached(cora(rank=4, **options), copy.deepcopy(base).float(), other)


def test_weights_that_are_not_finite_are_refused() -> None:
    other = encoder(1)
    other.blocks[0].att.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"blocks\.0\.att"):
        attached(cora(models=["a"]), encoder(), other)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("aggregate: differences", ["method.aggregate", "method.models"]),
        ("models: []", ["method.models", "one or more"]),
        ("models: [a, a]", ["method.models", "different"]),
        ("common_to: block", ["method.common_to", "role"]),
        ("rank: 0", ["method.rank", "at least 1"]),
        ("rank: 2, alpha: 200000}\ntrain: {precision: fp16, device: cuda", ["method.alpha", "rank of 2"]),
    ],
)
def test_a_bad_value_is_named(text: str, named: list[str]) -> None:
    with pytest.raises(RecipeError) as refusal:
        parse_recipe("task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\nmethod: {name: cora, " + text + "}\n")
    for word in named:
        assert word in str(refusal.value)


def test_the_card_says_whose_subspace_it_is() -> None:
    def said(text: str) -> str:
        recipe = "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\nmethod: {name: cora" + text + "}\n"
        return " ".join(about("cora").notes(parse_recipe(recipe).method))

    assert "own layers" in said("")
    assert "`one`, `two`" in said(", models: [one, two], aggregate: differences")
    assert "trained, too" in said(", train_basis: true")


# -- what it learns ----------------------------------------------------------------------------------------------------


def test_a_teacher_whose_projections_are_changed_is_learned_far_better_than_by_the_head_alone() -> None:
    student, planted = encoder(), directions()
    other, teacher = moved(student, planted, 1), moved(student, planted, 2, size=0.2)
    x = torch.randn(256, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    y = teacher(x)

    def left(method: Cora | None) -> float:
        model = copy.deepcopy(student)
        trained = list(model.head.requires_grad_().parameters())
        if method is not None:
            attached(method, model, *([other] if method.reference_models else []))
            trained += method.parameters()
        optimizer = torch.optim.Adam(trained, lr=2e-2)
        for _ in range(120):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    head = left(None)
    in_common = left(cora(alpha=3.0, models=["a"], aggregate="differences"))
    assert in_common < 0.05 * head
    assert in_common < 0.25 * left(cora(alpha=3.0)), "the subspace that the teacher was changed in is the better one"
    assert left(cora(alpha=3.0, train_basis=True)) < 0.2 * head


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"common_to": "projection"}, {"train_basis": True}])
def test_a_state_holds_its_bases(options: dict[str, Any]) -> None:
    """Loaded where no other model is at hand, and where the base has other weights, from which no basis follows."""
    one, two = cora(models=["a"], **options), cora(models=["a"], **options)
    models = [encoder(), encoder()]
    attached(one, models[0], encoder(1))
    scramble(one)
    attached(two, models[1], fresh=False)
    two.load_state_dict({key: value.clone() for key, value in one.state_dict().items()})
    x = torch.randn(5, 10, dtype=torch.float64)
    assert torch.equal(models[0](x), models[1](x))
    assert all(torch.equal(two.state_dict()[key], value) for key, value in one.state_dict().items())
    assert [parameter.shape for parameter in one.parameters()] == [parameter.shape for parameter in two.parameters()]


def test_a_state_of_other_bases_is_refused() -> None:
    one, two = cora(), cora(common_to="projection")
    attached(one, encoder())
    attached(two, encoder(), fresh=False)
    with pytest.raises(CheckpointError, match=r"basis\."):
        two.load_state_dict(one.state_dict())
    before = {key: value.clone() for key, value in two.state_dict().items()}
    damaged = one.state_dict() | {"basis.query.10": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"basis\.query\.10"):
        one.load_state_dict(damaged)
    assert all(torch.equal(two.state_dict()[key], value) for key, value in before.items())


def test_merged_and_as_lora_it_gives_the_same_answers() -> None:
    model, method = encoder(), cora()
    sites = attached(method, model)
    scramble(method)
    x = torch.randn(5, 10, dtype=torch.float64)
    expected = model(x)
    factors = method.to_lora()
    for site in sites:
        one, update = factors[site.name], method.delta(site, torch.float32)
        torch.testing.assert_close(one.B @ one.A, update, rtol=1e-5, atol=1e-5)
    method.merge()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert not any(hasattr(module, "base") for module in linear_maps(model).values())
