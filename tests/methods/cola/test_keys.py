"""The keys of Chain of LoRA: what they may be, and what a recipe is told that gets them wrong."""

from __future__ import annotations

import pytest

from dora_cli.errors import BudgetError, RecipeError
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.cola import ColaMethod
from tests.methods.small import linear_maps, new_cola, sites, small_encoder

PLACES = sites(linear_maps(small_encoder(), "blocks"))


def method(text: str, *overrides: str) -> ColaMethod:
    recipe = parse_recipe(
        f"task: glue/rte\nmodel: {{name: m}}\nmethod: {{name: cola, {text}}}\n", overrides=list(overrides)
    )
    assert isinstance(recipe.method, ColaMethod)
    return recipe.method


def test_a_rank_for_all_links_or_one_for_each() -> None:
    assert new_cola(links=3, rank=4).ranks == (4, 4, 4)
    section = method("links: 3, ranks: [8, 4, 2]")
    assert section.ranks == (8, 4, 2)
    assert new_cola(**arguments(section)).ranks == (8, 4, 2)


@pytest.mark.parametrize(
    ("text", "key", "names"),
    [
        ("links: 3, ranks: [8, 4]", "method.ranks", "got 2 for method.links = 3"),
        ("ranks: [8, 4, 2, 1]", "method.ranks", "got 4 for method.links = 3"),
        ("ranks: []", "method.ranks", "list"),
        ("links: 2, ranks: [4, 0]", "method.ranks", "at least 1"),
        ("ranks: 4", "method.ranks", "list"),
        ("links: 0", "method.links", "at least 1"),
        ("rank: 0", "method.rank", "at least 1"),
    ],
)
def test_what_cannot_be_is_one_message_before_a_weight_is_loaded(text: str, key: str, names: str) -> None:
    with pytest.raises(RecipeError) as caught:
        method(text)
    assert key in str(caught.value)
    assert names in str(caught.value)


def test_fp16_holds_the_scale_of_the_lowest_rank() -> None:
    half = ("train.precision=fp16", "train.device=cuda")
    method("links: 2, ranks: [8, 2], alpha: 131008", *half)
    with pytest.raises(RecipeError, match=r"(?s)method\.alpha.*rank of 1"):
        method("links: 2, ranks: [8, 1], alpha: 131008", *half)


def test_the_plan_is_equal_links_their_components_and_restarts() -> None:
    plan = new_cola(links=3, ranks=(4, 2, 1)).plan(20, PLACES)
    assert list(plan.phases) == [("link 1", 1, 6), ("link 2", 7, 13), ("link 3", 14, 20)]
    assert list(plan.restarts) == [6, 13]
    count = len(PLACES)
    assert [plan.budget(step) // count for step in (1, 5, 6, 12, 13, 20)] == [4, 4, 6, 6, 7, 7]
    assert (plan.start_components, plan.final_components, plan.freeze_step) == (4 * count, 7 * count, 13)
    assert list(new_cola(links=3, restart_learning_rate=False).plan(20, PLACES).restarts) == []
    one = new_cola(links=1).plan(20, PLACES)
    assert (list(one.restarts), one.freeze_step, one.next_event(0)) == ([], 0, None)


def test_what_cannot_be_planned() -> None:
    with pytest.raises(BudgetError, match="2 optimiser steps for 3 links"):
        new_cola(links=3).plan(2, PLACES)
    new_cola(links=3).plan(3, PLACES)
    with pytest.raises(BudgetError) as caught:
        new_cola(links=2, ranks=(4, 0, 1)).plan(20, [])
    assert [word in str(caught.value) for word in ("3 ranks", "rank 0", "method.targets")] == [True] * 3


def test_what_a_card_says_of_the_links() -> None:
    known = about("cola")
    assert known.notes(method("links: 3, rank: 4")) == ["There are 3 links, each of rank 4."]
    ranks, rate = known.notes(method("links: 2, ranks: [4, 1], restart_learning_rate: false"))
    assert "4, 1" in ranks
    assert "learning rate" in rate
    assert known.scale(method("alpha: 16, rank: 4"), 4, 12) == 4.0
