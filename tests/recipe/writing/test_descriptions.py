"""Every key says what it is for, in the words of a recipe."""

from __future__ import annotations

import pytest

from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.schema import DataSection, Recipe, TrainSection, section_keys
from dora_cli.recipe.writing.descriptions import choices, key_descriptions, summary

SECTIONS = [Recipe, *filter(None, (section_keys(key, {}) for key in Recipe.model_fields)), *METHODS.values()]


@pytest.mark.parametrize("section", dict.fromkeys(SECTIONS), ids=lambda section: section.__name__)
def test_every_key_is_described(section: type[Section]) -> None:
    found = key_descriptions(section)
    assert set(found) == set(section.model_fields), (
        "add a line for the key under Attributes: of the section's docstring"
    )
    assert summary(section)
    for text in (summary(section), *found.values()):
        assert len(text) > 5
        assert "`" not in text
        assert "None" not in text


def test_a_description_goes_on_over_lines() -> None:
    class Example(Section):
        """One line
        and its end.

        Attributes:
            a: first,
                second: third.
            b: None or ``x``.
        """

        a: int = 1
        b: str | None = None

    assert summary(Example) == "One line and its end."
    assert key_descriptions(Example) == {"a": "first, second: third.", "b": "null or x."}


def test_without_docstrings_there_is_nothing_to_say() -> None:
    """``python -OO`` leaves them out."""

    class Example(Section):
        a: int = 1

    Example.__doc__ = None
    assert (summary(Example), key_descriptions(Example)) == ("", {})


def test_choices() -> None:
    assert choices(DataSection, "source") == ("hub", "glue-tsv", "e2e-csv", "files", "builtin")
    assert choices(TrainSection, "precision") == ("auto", "fp32", "bf16", "fp16")
    assert choices(DoraMethod, "targets") == choices(TrainSection, "adam_betas") == ()
    assert choices(TrainSection, "epochs") == choices(DataSection, "path") == ()
