"""``preset: auto``: what it fills in, and what it leaves to the recipe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import DoraMethod, dump_recipe, parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.dora import AUTO, AUTO_SCALE


def section(**keys: Any) -> DoraMethod:
    method = json.dumps({"name": "dora", **keys})
    recipe = parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\nmethod: {method}\n")
    assert isinstance(recipe.method, DoraMethod)
    return recipe.method


@pytest.mark.parametrize("rank", [None, 1, 4])
def test_keys_that_the_recipe_does_not_have(rank: int | None) -> None:
    given = {} if rank is None else {"rank": rank}
    found, published = section(preset="auto", **given).model_dump(), section(**given).model_dump()
    differing = {key: value for key, value in found.items() if value != published[key]}
    assert differing == {
        **AUTO, "preset": "auto", "score": "fisher",
        **({} if AUTO_SCALE * found["rank"] == 8 else {"alpha": AUTO_SCALE * found["rank"]}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", 3.0), ("step_bound", None), ("events", 2), ("budget", "components"), ("score", "kfac"), ("rank", 3)],
)
def test_keys_that_it_has_stay(key: str, value: object) -> None:
    assert getattr(section(**{"preset": "auto", key: value}), key) == value


def test_what_would_go_against_them_is_not_filled_in() -> None:
    assert section(preset="auto", gates="trained").step_bound is None
    assert section(preset="auto", prune_interval=7).events is None
    assert section(preset="auto", rotate="input").score == "published"


def test_a_resolved_recipe_says_them_all_and_reads_back_the_same() -> None:
    recipe = parse_recipe("task: glue/rte\nmodel: {name: some/model}\nmethod: {name: dora, preset: auto}\n")
    text = dump_recipe(recipe)
    assert all(f"  {key}: " in text for key in AUTO)
    assert parse_recipe(text) == recipe


def test_the_method_is_made_of_them_and_its_card_says_so() -> None:
    found = section(preset="auto")
    assert "preset" not in arguments(found)
    assert set(AUTO) <= set(arguments(found))
    told = [note for note in about("dora").notes(found) if "preset: auto" in note]
    assert len(told) == 1
    assert not any("preset" in note for note in about("dora").notes(section()))


def test_rules_know_what_is_filled_in() -> None:
    """Gradients are adjusted of two factors, and gates are fixed by the preset."""
    assert section(preset="auto", gradients="pro").gates == "fixed"
    with pytest.raises(RecipeError, match=r"method\.gradients"):
        section(preset="auto", gradients="pro", gates="trained")
