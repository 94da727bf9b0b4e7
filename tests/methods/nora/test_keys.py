"""What a recipe may say of NoRA."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.methods import Nora
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.nora import NoraMethod


def method(text: str) -> NoraMethod:
    recipe = "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\nmethod: {name: nora, " + text + "}\n"
    section = parse_recipe(recipe).method
    assert isinstance(section, NoraMethod)
    return section


def test_every_key_is_an_argument_of_the_method() -> None:
    section = method(
        "rank: 4, outer_rank: 32, alpha: 16, outer: activation-aware, singular_values: both, stored: false"
    )
    made = Nora(**arguments(section))
    assert (made.scaling, made.outer_rank, made.aware, made.sharing, made.stored) == (4.0, 32, True, "both", False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rank: 0", ["method.rank", "at least 1"]),
        ("outer_rank: 0", ["method.outer_rank", "at least 1"]),
        ("rank: 9, outer_rank: 8", ["method.rank", "at most method.outer_rank = 8", "got 9"]),
        ("alpha: 0", ["method.alpha", "above 0"]),
        ("dropout: 1.0", ["method.dropout"]),
        ("outer: random", ["method.outer", "plain", "activation-aware"]),
        ("singular_values: input", ["method.singular_values", "output", "both"]),
        ("activation_power: 1.5", ["method.activation_power", "at most 1"]),
        ("calibration_examples: 0", ["method.calibration_examples", "at least 1"]),
        ("stored: maybe", ["method.stored"]),
    ],
)
def test_a_bad_value_is_named_with_its_bound(text: str, named: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        method(text)
    for word in named:
        assert word in str(error.value)


def test_as_many_inner_as_outer_components_are_allowed() -> None:
    assert method("rank: 8, outer_rank: 8").rank == 8


def test_fp16_holds_the_scale() -> None:
    with pytest.raises(RecipeError, match=r"method\.alpha.*rank of 2"):
        method("rank: 2, alpha: 200000}\ntrain: {precision: fp16, device: cuda")


def test_the_card_says_which_options_were_taken() -> None:
    known = about("nora")
    assert known.notes(method("rank: 4")) == []
    aware, both = known.notes(method("outer: activation-aware, activation_power: 0.5, singular_values: both"))
    assert "256 training examples, to the power of 0.5" in aware
    assert "square roots" in both
    assert known.scale(method("alpha: 16, rank: 8"), 8, 8) == 2.0
