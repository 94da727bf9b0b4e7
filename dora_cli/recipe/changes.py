"""Which keys of a recipe may differ, by what they have an effect on."""

from __future__ import annotations

from collections.abc import Iterator

from dora_cli.recipe.effects import Effect
from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.schema import Recipe, section_keys


def effect_of(section: type[Section], key: str) -> Effect:
    """What the key of a section has an effect on; of one that does not say, on the run: then nothing may change it."""
    found = [mark for mark in section.model_fields[key].metadata if isinstance(mark, Effect)]
    return found[0] if found else Effect.RUN


def keys_of(*effects: Effect) -> tuple[str, ...]:
    """The keys that have one of these effects, ``train.seed`` and so on, in the order of a recipe."""
    return tuple(f"{place}{key}" for place, section, key in every_key() if effect_of(section, key) in effects)


def every_key() -> Iterator[tuple[str, type[Section], str]]:
    """Every key that holds a value: the section's name with a point, the section, the key; of all methods."""
    for name in Recipe.model_fields:
        if name == "method":
            yield from ((f"{name}.", section, key) for section in METHODS.values() for key in section.model_fields)
        elif (section := section_keys(name)) is not None:
            yield from ((f"{name}.", section, key) for key in section.model_fields)
        else:
            yield "", Recipe, name
