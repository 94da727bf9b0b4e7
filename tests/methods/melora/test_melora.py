"""MELoRA behind its contract: start, sizes, what is refused, identities, what it learns, states, skipped steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dora_cli.errors import BudgetError, CheckpointError, RecipeError
from dora_cli.methods import Melora
from dora_cli.methods.base import Method, Site
from dora_cli.models import find_projections
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.melora import MeloraMethod
from tests.methods.small import SmallEncoder, linear_maps, new_lora, sites, tiny_gpt2, tiny_roberta


def melora(**changes: Any) -> Melora:
    """With a recipe's defaults for what is left open."""
    return Melora(**(arguments(MeloraMethod()) | {"rank": 2, "minis": 3, "dropout": 0.0} | changes))


def encoder(dtype: torch.dtype = torch.float64) -> SmallEncoder:
    torch.manual_seed(0)
    return SmallEncoder(d=12, h=18).to(dtype).requires_grad_(False)


def attached(method: Method, model: nn.Module | None = None, *, seed: int = 0) -> nn.Module:
    model = encoder() if model is None else model
    method.attach(model, sites(linear_maps(model, "blocks")), seed=seed)
    return model


def scramble(method: Method) -> None:
    """Puts a number other than 0 into every factor."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


# -- the start ---------------------------------------------------------------------------------------------------------


def test_each_mini_starts_as_a_lora_of_its_own_part() -> None:
    """Within 1/sqrt(d_in / n), of variance n / (3 d_in); `B` is 0."""
    layer = nn.Linear(400, 40)
    method = melora(rank=50, minis=4)
    method.attach(nn.Sequential(layer), sites({"0": layer}))
    A, B = method.state_dict()["0.A"], method.state_dict()["0.B"]
    assert (A.shape, B.shape) == ((200, 100), (10, 200))
    assert (A.dtype, B.dtype) == (torch.float32, torch.float32)
    assert not B.any()
    assert 0.99 / 10 < A.abs().max() <= 1 / 10
    assert float(A.var()) == pytest.approx(1 / 300, rel=0.03)  # 20,000 draws: 5 standard errors of 0.9 / sqrt(20000)
    assert abs(float(A.mean())) < 5 * math.sqrt(1 / 300 / 20_000)


@pytest.mark.parametrize("build", [tiny_roberta, tiny_gpt2])
def test_a_fresh_model_computes_what_its_base_does(build: Any) -> None:
    ids = torch.randint(3, 40, (4, 7), generator=torch.Generator().manual_seed(0))
    model = build().eval()
    expected = model(input_ids=ids).logits
    method = melora(minis=4, dropout=0.3)
    method.attach(model, find_projections(model))
    assert torch.equal(model(input_ids=ids).logits, expected)
    with method.folded():
        assert torch.equal(model(input_ids=ids).logits, expected)


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_its_size_is_what_is_stored_and_its_rank_what_its_minis_have_together() -> None:
    method = melora()
    model = encoder()
    places = sites(linear_maps(model, "blocks"))
    schedule = method.plan(9, places)
    entries = 2 * 2 * ((12 + 12) + (12 + 18) + (18 + 12))
    assert schedule.start_components == schedule.final_components == 6 * 2 * 3
    assert method.planned_size(places, schedule) == (entries, entries)
    method.attach(model, places, (), schedule)
    assert sum(tensor.numel() for tensor in method.state_dict().values()) == entries
    size = method.size()
    assert (size.stored, size.trained, size.bytes) == (entries, entries, 8 * entries)
    found = method.allocation()
    assert {(item.start_rank, item.rank) for item in found} == {(6, 6)}
    assert [item.parameters for item in found] == [2 * sum(site.shape) for site in places]
    scramble(method)
    assert {factors.rank for factors in method.to_lora().values()} == {6}


def test_a_step_computes_as_much_with_six_minis_as_with_two_of_the_same_rank() -> None:
    """So no block-diagonal matrix is multiplied by, whose rows grow with the number of minis."""

    def flops(rank: int, minis: int) -> int:
        method = melora(rank=rank, minis=minis)
        model = attached(method, encoder(torch.float32))
        x = torch.randn(7, 12)
        with FlopCounterMode(display=False) as counter, method.training_pass(torch.float32):
            model(x).sum().backward()
        return int(counter.get_total_flops())

    assert flops(16, 2) == flops(16, 6)
    # down and up, forward and backward, and two outer products, of 7 rows; the first block needs no gradient of x
    widths = (12 + 12) + (12 + 18) + (18 + 12)
    assert flops(32, 2) - flops(16, 2) == 2 * 7 * 16 * (3 * 2 * widths - 12)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_parts_that_are_no_whole_number_are_refused_all_at_once() -> None:
    places = sites({"a": nn.Linear(12, 12), "b": nn.Linear(12, 20), "c": nn.Linear(12, 20), "d": nn.Linear(20, 12)})
    assert melora(minis=4).plan(3, places).total_steps == 3
    with pytest.raises(BudgetError) as refusal:
        melora(minis=3).plan(3, places)
    assert str(refusal.value) == (
        "method.minis is 3, which does not divide inputs and outputs of 3 of 4 projections (12 to 20: b and 1 more; "
        "20 to 12: d); choose a divisor of 4, such as 2, or leave those projections out of method.targets"
    )
    with pytest.raises(BudgetError, match=r"1 of 2 projections \(7 to 12: e\); leave"):
        melora(minis=3).plan(3, [*places[:1], *sites({"e": nn.Linear(7, 12)})])
    with pytest.raises(BudgetError):
        melora(minis=3).attach(nn.Sequential(nn.Linear(12, 20)), places[1:2])


def test_a_model_out_of_reach_is_planned_for() -> None:
    assert melora(minis=3).plan(3, [Site("", nn.Module(), (2, 2))]).total_steps == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rank: 0", ["method.rank", "at least 1"]),
        ("minis: 0", ["method.minis", "at least 1"]),
        ("alpha: -1", ["method.alpha", "above 0"]),
        ("rank: 2, alpha: 200000}\ntrain: {precision: fp16, device: cuda", ["method.alpha", "rank of 2"]),
    ],
)
def test_a_bad_value_is_named(text: str, named: list[str]) -> None:
    with pytest.raises(RecipeError) as refusal:
        parse_recipe("task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\nmethod: {name: melora, " + text + "}\n")
    for word in named:
        assert word in str(refusal.value)


def test_a_lora_of_its_ranks_elsewhere_is_scaled_by_the_rank_of_a_mini() -> None:
    assert about("melora").scale(MeloraMethod(rank=2, minis=4, alpha=8.0), 8, 8) == 4.0


# -- identities --------------------------------------------------------------------------------------------------------


def test_one_mini_is_lora() -> None:
    one, two = melora(rank=3, minis=1, alpha=8.0), new_lora(rank=3, alpha=8.0, dropout=0.0)
    x = torch.randn(5, 12, dtype=torch.float64)
    models = [attached(method, seed=4) for method in (one, two)]
    assert all(torch.equal(one.state_dict()[key], value) for key, value in two.state_dict().items())
    scramble(one)
    scramble(two)
    torch.testing.assert_close(models[0](x), models[1](x), rtol=0, atol=1e-12)


def test_as_lora_its_factors_are_block_diagonal() -> None:
    method = melora()
    model = attached(method)
    scramble(method)
    x = torch.randn(5, 12, dtype=torch.float64)
    expected = model(x)
    for site in method.sites:
        d_out, d_in = site.shape
        factors = method.to_lora()[site.name]
        assert (factors.A.shape, factors.B.shape) == ((6, d_in), (d_out, 6))
        for mini in range(3):
            rows = slice(2 * mini, 2 * mini + 2)
            inside, outside = factors.A[rows].clone(), factors.B[:, rows].clone()
            inside[:, mini * d_in // 3 : (mini + 1) * d_in // 3] = 0
            outside[mini * d_out // 3 : (mini + 1) * d_out // 3] = 0
            assert not inside.any()
            assert not outside.any()
        torch.testing.assert_close(
            (factors.B @ factors.A).double(), method.delta(site, torch.float64), rtol=1e-5, atol=1e-5
        )
    with method.folded():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    method.merge()
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


# -- what it learns ----------------------------------------------------------------------------------------------------


def test_a_teacher_whose_projections_are_changed_is_learned_far_better_than_by_the_head_alone() -> None:
    student = encoder(torch.float32)
    teacher = copy.deepcopy(student)
    torch.manual_seed(5)
    with torch.no_grad():
        for module in linear_maps(teacher, "blocks").values():
            module.weight.add_(torch.randn_like(module.weight), alpha=0.3)
        x = torch.randn(256, 12)
        y = teacher(x)

    def left(method: Melora | None) -> float:
        model = copy.deepcopy(student)
        trained = list(model.head.requires_grad_().parameters())
        if method is not None:
            attached(method, model, seed=1)
            trained += method.parameters()
        optimizer = torch.optim.Adam(trained, lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    head = left(None)
    assert left(melora(minis=2)) < 0.2 * head


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_state_is_loaded_into_another_model() -> None:
    one, two = melora(), melora()
    models = [attached(one, seed=1), attached(two, seed=2)]
    scramble(one)
    x = torch.randn(5, 12, dtype=torch.float64)
    assert not torch.equal(models[0](x), models[1](x))
    two.load_state_dict({key: value.clone() for key, value in one.state_dict().items()})
    assert torch.equal(models[0](x), models[1](x))


def test_the_state_of_another_number_of_minis_is_refused() -> None:
    """It has as many numbers, in other shapes."""
    one, two = melora(rank=3, minis=2), melora(rank=2, minis=3)
    attached(one)
    attached(two)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.att\.A"):
        two.load_state_dict(one.state_dict())
