"""What a recipe may say of XGBLoRA."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.methods import Xgblora
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import about, arguments
from dora_cli.recipe.methods.xgblora import XgbloraMethod


def method(text: str) -> XgbloraMethod:
    recipe = "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\nmethod: {name: xgblora, " + text + "}\n"
    section = parse_recipe(recipe).method
    assert isinstance(section, XgbloraMethod)
    return section


def test_every_key_is_an_argument_of_the_method() -> None:
    made = Xgblora(**arguments(method("rank: 4, layers: 2, alpha: 6, step_size: 0.5, restart_learning_rate: false")))
    assert (made.rank, made.layers, made.scaling, made.step_size) == (4, 2, 6.0, 0.5)
    assert not made.restart_learning_rate


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rank: 0", ["method.rank", "at least 1"]),
        ("layers: 0", ["method.layers", "at least 1"]),
        ("alpha: 0", ["method.alpha", "above 0"]),
        ("step_size: 0", ["method.step_size", "above 0"]),
        ("norm_penalty: -1", ["method.norm_penalty", "at least 0"]),
        ("dropout: 1.0", ["method.dropout"]),
        ("layer: 2", ["method.layer", "layers"]),
    ],
)
def test_a_bad_value_is_named_with_its_bound(text: str, named: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        method(text)
    for word in named:
        assert word in str(error.value)


def test_fp16_holds_the_scale_of_what_trains_and_of_what_is_tied() -> None:
    fp16 = "}\ntrain: {precision: fp16, device: cuda"
    method("alpha: 60000" + fp16)
    with pytest.raises(RecipeError, match=r"method\.alpha"):
        method("alpha: 70000" + fp16)
    with pytest.raises(RecipeError, match=r"method\.alpha.*step_size"):
        method("alpha: 60000, step_size: 2" + fp16)
    method("alpha: 60000, step_size: 0.5" + fp16)


def test_the_card_says_which_options_were_taken() -> None:
    known = about("xgblora")
    assert known.notes(method("rank: 4")) == []
    smaller, once = known.notes(method("step_size: 0.5, restart_learning_rate: false"))
    assert "0.5" in smaller
    assert "once" in once
    assert known.scale(method("alpha: 4, step_size: 0.5"), 0, 3) == 2.0
