"""A method's defaults stand in its section of a recipe; those of its class are the same, or there are none."""

from __future__ import annotations

import inspect

import pytest

from dora_cli.methods import METHODS
from dora_cli.recipe.methods import METHODS as SECTIONS


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_those_of_the_section(name: str) -> None:
    keys = SECTIONS[name].model_fields
    given = {
        key: parameter.default
        for key, parameter in inspect.signature(METHODS[name]).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert given == {key: keys[key].default for key in given}


def test_sections_and_classes_go_by_the_same_names() -> None:
    assert list(METHODS) == list(SECTIONS)
    assert all(METHODS[name].name == name == SECTIONS[name]().name for name in METHODS)  # type: ignore[attr-defined]
