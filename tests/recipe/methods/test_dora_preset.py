"""``preset: auto``: what it fills in, and what it leaves to the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dora_cli.errors import RecipeError
from dora_cli.recipe import DoraMethod, dump_recipe, parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.dora import AUTO

CONFIGS = Path(__file__).parents[3] / "configs"


def section(note: Any = None, **keys: Any) -> DoraMethod:
    method = json.dumps({"name": "dora", **keys})
    recipe = parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\nmethod: {method}\n", note=note)
    assert isinstance(recipe.method, DoraMethod)
    return recipe.method


@pytest.mark.parametrize("file", ["minilm-rank1", "minilm-rank4", "smollm2-rank1", "smollm2-rank4"])
def test_it_is_what_the_search_has_chosen(file: str) -> None:
    """The entry ``late`` of the third search (docs/results/allocation.md); scale and start rank come to the same."""
    entry = yaml.safe_load((CONFIGS / "compare" / f"search-cuts-{file}.yaml").read_text())["methods"]["late"]
    chosen = section(**{key.removeprefix("method."): value for key, value in entry.items()})
    preset = section(preset="auto", rank=chosen.rank)
    scales = [about("dora").scale(found, 1 + chosen.rank // 2 + chosen.rank, chosen.rank) for found in (preset, chosen)]
    assert scales[0] == scales[1]
    assert chosen.start_rank == -(-3 * chosen.rank // 2)
    assert preset.start_rank is None, "which is the same"
    other = {"preset", "alpha", "scaling", "start_rank"}
    assert preset.model_dump(exclude=other) == chosen.model_dump(exclude=other)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_everything_else_is_published(rank: int) -> None:
    found, published = section(preset="auto", rank=rank).model_dump(), section(rank=rank).model_dump()
    assert {key for key, value in found.items() if value != published[key]} == {*AUTO, "preset", "score"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", 3.0), ("step_bound", None), ("events", 2), ("budget", "components"), ("score", "kfac"), ("rank", 3)],
)
def test_keys_that_it_has_stay(key: str, value: object) -> None:
    assert getattr(section(**{"preset": "auto", key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "value", "others"),
    [
        ("gates", "trained", {"step_bound": None}),
        ("start", "published", {"gates": "trained", "step_bound": None, "score": "published"}),
        ("start", "unit", {"gates": "trained", "step_bound": None, "score": "fisher"}),
        ("gate_rate", 2.0, {"gates": "trained", "step_bound": None}),
        ("compact", False, {"gates": "trained", "step_bound": None}),
        ("prune_interval", 7, {"events": None}),
        ("rotate", "input", {"score": "published"}),
        ("gradients", "pro", {"gates": "fixed"}),
        ("refit", True, {"gates": "fixed"}),
        ("guard", True, {"gates": "fixed"}),
        ("calibration_examples", 256, {}),
    ],
)
def test_every_key_can_be_set_alone(key: str, value: object, others: dict[str, object]) -> None:
    found = section(**{"preset": "auto", key: value}).model_dump()
    assert {**found, key: value, **others} == found


def test_a_resolved_recipe_says_them_all_and_reads_back_the_same() -> None:
    """Also with another rank, which nothing else follows."""
    text = "task: glue/rte\nmodel: {name: some/model}\nmethod: {name: dora, preset: auto}\n"
    recipe = parse_recipe(text)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    flag = ["method.rank=2"]
    assert parse_recipe(dump_recipe(recipe), overrides=flag) == parse_recipe(text, overrides=flag)
    written = yaml.safe_load(dump_recipe(recipe))["method"]
    assert AUTO.items() <= written.items()


def test_the_method_is_made_of_them_and_its_card_says_what_is_not() -> None:
    found = section(preset="auto", events=3, step_bound=0.1)
    assert "preset" not in arguments(found)
    assert set(AUTO) <= set(arguments(found))
    (told,) = [note for note in about("dora").notes(found) if "preset" in note]
    assert told == "Settings are those of `preset: auto`, but for `events`, `step_bound`."
    assert not any("preset" in note for note in about("dora").notes(section()))


def test_a_recipe_that_names_other_values_is_told_so() -> None:
    notes: list[str] = []
    section(notes.append, preset="auto", rank=2, alpha=4.0)
    assert notes == []
    section(notes.append, preset="auto", start="published", alpha=8.0)
    assert notes == [
        (
            "method.preset is auto, but what the recipe says holds: start, gates, alpha, step_bound; remove them for "
            "the preset's"
        )
    ]


def test_rules_know_what_is_filled_in() -> None:
    """Gradients are adjusted of two factors, and gates are fixed by the preset."""
    assert section(preset="auto", gradients="pro").gates == "fixed"
    with pytest.raises(RecipeError, match=r"method\.gradients"):
        section(preset="auto", gradients="pro", gates="trained")
    with pytest.raises(RecipeError) as caught:
        section(preset="atuo", gradients="pro")
    assert len(caught.value.problems) == 1, "nothing is said of what the preset would have filled in"
