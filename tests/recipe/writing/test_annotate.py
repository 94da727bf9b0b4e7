"""A recipe for people: a comment at every key, and the same recipe when read back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from dora_cli.recipe import parse_recipe
from dora_cli.recipe.shipped_recipes import shipped_recipes
from dora_cli.recipe.writing.annotate import annotated
from tests.recipe.writing.test_dump import recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_line_is_commented_and_short(name: str) -> None:
    recipe = shipped_recipes()[name]
    text = annotated(recipe, ["a heading", "", "of three lines"])
    assert parse_recipe(text) == recipe
    lines = text.splitlines()
    assert lines[:4] == ["# a heading", "#", "# of three lines", ""]
    assert all(line == "" or "# " in line for line in lines[3:])
    assert max(map(len, lines)) <= 120
    assert all(line == line.rstrip() for line in lines)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    of_the_method = re.search(rf"  name: {recipe.method.name} +# which method: (.*?)\n(?=  \w|\n)", text, re.DOTALL)
    assert of_the_method is not None
    assert not of_the_method[1].endswith("."), "a comment ends without a full stop"


def test_it_looks_as_it_should() -> None:
    text = annotated(parse_recipe("task: glue/rte\nmodel: {name: m, dtype: bfloat16}\nmethod: {name: head}"))
    assert text.startswith("task: glue/rte ")
    assert "\nmethod:                           # how weights adapt" in text
    assert "\n  name: head                      # which method: head trains the head alone\n\ntrain:" in text
    assert "\n  dtype: bfloat16                 # float32, bfloat16 or float16: of the frozen base weights." in text
    assert re.search(
        r"\n  trust_remote_code: false        # whether .*\n {34}# "
        r"\w",
        text,
    ), "a long comment goes on below"
    assert "\ndecode:" not in text


@settings(max_examples=30, deadline=None, derandomize=True)
@given(recipes())
def test_round_trip(recipe):
    assert parse_recipe(annotated(recipe)) == recipe
