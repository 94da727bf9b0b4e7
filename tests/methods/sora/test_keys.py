"""What a recipe may say of SoRA."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.methods import Sora
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.sora import SoraMethod


def method(text: str) -> SoraMethod:
    recipe = "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\nmethod: {name: sora, " + text + "}\n"
    section = parse_recipe(recipe).method
    assert isinstance(section, SoraMethod)
    return section


def test_every_key_is_an_argument_of_the_method() -> None:
    section = method("threshold: official, gate_threshold: 0, max_gate_threshold: 7.0e-4, rank: 4, alpha: 16")
    made = Sora(**arguments(section))
    assert made.scaling == 4.0
    assert made.max_gate_threshold == 7e-4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rank: 0", ["method.rank", "at least 1"]),
        ("alpha: 0", ["method.alpha", "above 0"]),
        ("threshold: hard", ["method.threshold", "soft", "official"]),
        ("gate_penalty: -1", ["method.gate_penalty", "at least 0"]),
        ("gate_threshold: -1.0e-4", ["method.gate_threshold", "at least 0"]),
        ("gate_learning_rate_ratio: 0", ["method.gate_learning_rate_ratio", "above 0"]),
        ("first_stage_fraction: 1", ["method.first_stage_fraction"]),
        ("max_gate_threshold: 3.0e-4", ["method.max_gate_threshold", "method.gate_threshold = 0.0003", "got 0.0003"]),
        ("max_gate_threshold: 1.0e-3, threshold_stages: 1", ["method.threshold_stages", "at least 2", "got 1"]),
        ("dropout: 1.0", ["method.dropout"]),
    ],
)
def test_a_bad_value_is_named_with_its_bound(text: str, named: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        method(text)
    for word in named:
        assert word in str(error.value)


def test_fp16_holds_the_scale() -> None:
    with pytest.raises(RecipeError, match=r"method\.alpha.*rank of 2"):
        method("rank: 2, alpha: 200000}\ntrain: {precision: fp16, device: cuda")


def test_the_card_says_which_options_were_taken() -> None:
    known = about("sora")
    assert known.notes(method("rank: 4")) == []
    official, staged = known.notes(method("threshold: official, max_gate_threshold: 7.0e-4"))
    assert "twice" in official
    assert "0.0003 to 0.0007 in 7 stages" in staged
    assert known.scale(method("alpha: 16, rank: 8"), 8, 3) == 2.0
