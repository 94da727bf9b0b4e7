"""A method's defaults stand in its section of a recipe and nowhere else."""

from __future__ import annotations

import inspect

import pytest

from dora_cli.methods import METHODS
from dora_cli.recipe.methods import METHODS as SECTIONS
from dora_cli.recipe.methods import arguments


@pytest.mark.parametrize("name", METHODS)
def test_a_class_takes_what_its_section_gives_and_has_no_defaults(name: str) -> None:
    parameters = inspect.signature(METHODS[name]).parameters
    assert set(parameters) == set(arguments(SECTIONS[name]()))
    assert all(parameter.default is inspect.Parameter.empty for parameter in parameters.values())


def test_sections_and_classes_go_by_the_same_names() -> None:
    assert list(METHODS) == list(SECTIONS)
    assert all(METHODS[name].name == name == SECTIONS[name]().name for name in METHODS)  # type: ignore[attr-defined]
