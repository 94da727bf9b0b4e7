"""What is said of flags that set no key."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.overrides import check_listed, parse_override

BASE = "task: glue/rte\nmodel: {name: some/model}\n"


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("train.seed", "--set train.seed: expected KEY=VALUE, such as --set train.seed=2"),
        ("=3", "--set =3: '' is not a key; expected names joined by dots, such as train.seed"),
        ("a. b=3", "--set a. b=3: 'a. b' is not a key; expected names joined by dots, such as train.seed"),
        ("train.seed=", "--set train.seed=: train.seed: has no value after '='; write null for none"),
    ],
)
def test_what_cannot_be_read(flag: str, says: str) -> None:
    assert parse_override(flag) == says


def test_a_lone_text_is_no_list() -> None:
    with pytest.raises(RecipeError) as caught:
        check_listed("train.seed=2")
    assert str(caught.value) == (
        "overrides: must be a list of key=value texts, got the text 'train.seed=2'; write ['train.seed=2']"
    )


def test_what_another_method_drops() -> None:
    notes: list[str] = []
    parse_recipe(BASE + "method: {rank: 4, dem_weight: 0.1}", overrides=["method.name=lora"], note=notes.append)
    assert notes == [
        (
            "--set method.name=lora replaces the method's section: lora takes its defaults, and what was set for dora "
            "is dropped (rank, dem_weight)"
        )
    ]


def test_what_another_preset_drops() -> None:
    """Wherever the flag stands; keys of other flags hold."""
    notes: list[str] = []
    text = BASE + "method: {rank: 4, dem_weight: 0.1}"
    recipe = parse_recipe(text, overrides=["method.alpha=3", "method.preset=auto"], note=notes.append)
    assert recipe == parse_recipe(BASE + "method: {name: dora, preset: auto, alpha: 3}")
    assert notes == [
        (
            "--set method.preset=auto replaces the method's section: its values are those of the preset, and what was "
            "set for published is dropped (rank, dem_weight)"
        )
    ]
    assert parse_recipe(text, overrides=["method.preset=published"]) == parse_recipe(text)


@pytest.mark.parametrize("flags", [["method.preset=auto", "method.name=lora"], ["method.preset=other"]])
def test_a_preset_that_is_none(flags: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE + "method: {rank: 4}", overrides=flags)
    assert "method.preset" in str(caught.value)
