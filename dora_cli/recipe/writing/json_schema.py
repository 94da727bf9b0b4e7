"""The recipe as a JSON Schema (draft 2020-12), for editors that complete and check YAML.

What holds between keys (`dora_cli.recipe.rules`) and what only a task or a model can say is beyond it; ``dora train
--dry-run`` checks all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.schema import Recipe, section_keys
from dora_cli.recipe.writing.descriptions import key_descriptions, summary

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_json_schema(tasks: Sequence[str] = ()) -> dict[str, Any]:
    """The schema of a recipe.

    Args:
        tasks: names that `task` may have; any text where there are none.
    """
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    _describe(schema, Recipe)
    sections = [section for key in Recipe.model_fields if (section := section_keys(key, {})) is not None]
    for section in dict.fromkeys([*sections, *METHODS.values()]):
        _describe(definitions[section.__name__], section)
    keys = schema["properties"]
    keys["method"] = _method(keys["method"]["description"])
    if tasks:
        keys["task"] = {"description": keys["task"]["description"], "enum": list(tasks)}
    return {
        "$schema": DIALECT,
        "title": "dora recipe",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _describe(schema: dict[str, Any], section: type[Section]) -> None:
    """Puts what is said of a section and of its keys where an editor shows it; generated titles only
    repeat the names.
    """
    schema["description"] = summary(section)
    schema.pop("title", None)
    descriptions = key_descriptions(section)
    for key, below in schema["properties"].items():
        below.pop("title", None)
        if key in descriptions:
            below["description"] = descriptions[key]


def _method(description: str) -> dict[str, Any]:
    """The keys of the method that `name` chooses, the first where there is no name.

    Not one-of: to a checker `{}` is any method whose keys all have defaults, and its message for a misspelt key would
    be about all.
    """
    default, *others = METHODS

    def chosen(names: dict[str, Any], section: type[Section], **more: Any) -> dict[str, Any]:
        return {"if": {"properties": {"name": names}, **more}, "then": {"$ref": f"#/$defs/{section.__name__}"}}

    return {
        "description": description,
        "type": "object",
        "properties": {"name": {"description": "Which method.", "enum": list(METHODS), "default": default}},
        "allOf": [
            chosen({"const": default}, METHODS[default]),
            *(chosen({"const": name}, METHODS[name], required=["name"]) for name in others),
        ],
    }
