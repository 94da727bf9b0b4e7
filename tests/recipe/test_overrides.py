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
    """Wherever the flag stands; keys of other flags hold, and what says how large the adapter is and on what."""
    notes: list[str] = []
    text = BASE + "method: {rank: 4, dropout: 0.3, targets: [ffn], dem_weight: 0.1, start_rank: 5}"
    recipe = parse_recipe(text, overrides=["method.alpha=3", "method.preset=auto"], note=notes.append)
    kept = "rank: 4, dropout: 0.3, targets: [ffn], alpha: 3"
    assert recipe == parse_recipe(BASE + f"method: {{name: dora, preset: auto, {kept}}}")
    assert notes == [
        (
            "--set method.preset=auto replaces the method's section: the preset auto says its values, and what was set "
            "beside published is dropped (dem_weight, start_rank)"
        ),
        "method.preset is auto, but what the recipe says holds: alpha; remove it for the preset's",
    ]
    assert parse_recipe(text, overrides=["method.preset=published"]) == parse_recipe(text)


@pytest.mark.parametrize("flags", [["method.preset=auto", "method.name=lora"], ["method.preset=other"]])
def test_a_preset_that_is_none(flags: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE + "method: {rank: 4, dem_weight: 0.1}", overrides=flags)
    (problem,) = caught.value.problems
    assert problem.startswith("--set method.preset=")
