"""What an editor lets through is what the recipe takes, as far as JSON Schema goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from dora_cli.errors import RecipeError
from dora_cli.recipe import dump_recipe, load_recipe, parse_recipe
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.schema import Recipe, section_keys
from dora_cli.recipe.shipped_recipes import EXPERIMENTS
from dora_cli.recipe.writing.json_schema import DIALECT, recipe_json_schema

CONFIGS = Path(__file__).parents[3] / "configs"
ALL = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != EXPERIMENTS)
SCHEMA = recipe_json_schema(("e2e", "glue/rte"))
VALIDATOR = Draft202012Validator(recipe_json_schema())


def good(**sections: Any) -> dict[str, Any]:
    return {"task": "glue/rte", "model": {"name": "m"}, **sections}


def test_it_is_a_schema_of_the_named_draft() -> None:
    assert SCHEMA["$schema"] == DIALECT == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


@pytest.mark.parametrize("path", ALL, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_recipes_are_valid(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(dump_recipe(load_recipe(path))))


def test_every_key_is_there_with_what_it_is_for() -> None:
    sections = {name: section for name in Recipe.model_fields if (section := section_keys(name, {})) is not None}
    assert set(SCHEMA["properties"]) == set(Recipe.model_fields)
    for section in [*sections.values(), *METHODS.values()]:
        definition = SCHEMA["$defs"][section.__name__]
        assert set(definition["properties"]) == set(section.model_fields)
        assert definition["additionalProperties"] is False
        for key, below in definition["properties"].items():
            assert below["description"], key
            assert "title" not in below
    assert all(below["description"] for below in SCHEMA["properties"].values())


def test_tasks_are_a_choice_where_they_are_given() -> None:
    assert SCHEMA["properties"]["task"]["enum"] == ["e2e", "glue/rte"]
    assert Draft202012Validator(SCHEMA).is_valid(good())
    assert not Draft202012Validator(SCHEMA).is_valid(good() | {"task": "glue/rt"})


SAME: dict[str, dict[str, Any]] = {
    "smallest": good(),
    "default method": good(method={}),
    "default method by its keys": good(method={"rank": 2}),
    "a method by name": good(method={"name": "head"}),
    "another method with its keys": good(method={"name": "lora", "ranks": {"*.query": 3}, "scaling": "standard"}),
    "numbers": good(train={"learning_rate": 1, "adam_betas": [0.9, 0.99], "max_grad_norm": None}),
    "files": good(data={"source": "files", "path": "d", "columns": {"sentence": "text"}, "labels": ["a", "b"]}),
    "a device": good(train={"device": "cuda:3"}),
    "clients": good(method={"name": "lora"}, federated={"clients": 2, "participation": 1, "residual": 0}),
    "no decoding": good(decode=None),
    "no task": {"model": {"name": "m"}},
    "no model": {"task": "e2e"},
    "no model name": {"task": "e2e", "model": {}},
    "blank": {"task": " ", "model": {"name": "m"}},
    "unknown section": good(trian={}),
    "unknown method": good(method={"name": "loar"}),
    "key of the default method": good(method={"name": "lora", "dem_weight": 0.1}),
    "key of another method": good(method={"name": "head", "rank": 4}),
    "misspelt key of the default method": good(method={"rnk": 4}),
    "text for a number": good(train={"epochs": "3"}),
    "below its bound": good(train={"epochs": 0}),
    "above its bound": good(train={"epochs": 2**31}),
    "not below 1": good(method={"dropout": 1.0}),
    "not above 0": good(train={"learning_rate": 0}),
    "one beta": good(train={"adam_betas": [0.9]}),
    "three betas": good(train={"adam_betas": [0.9, 0.9, 0.9]}),
    "no targets": good(method={"targets": []}),
    "a target twice": good(method={"targets": ["ffn", "ffn"]}),
    "one label": good(data={"source": "files", "path": "d", "labels": ["a"]}),
    "no columns": good(data={"source": "files", "path": "d", "columns": {}}),
    "no device": good(train={"device": "gpu"}),
    "no device after all": good(train={"device": "cuda:01"}),
    "length penalty": good(decode={"length_penalty": 11}),
    "participation": good(method={"name": "lora"}, federated={"participation": 0}),
    "aggregation": good(method={"name": "lora"}, federated={"aggregation": "mean"}),
    "a section that is null": good(train=None),
    "seed": good(train={"seed": 2**32}),
    "short": good(data={"max_length": 7}),
} | {
    f"unknown key of {name}": good(**{name: {**({"name": "m"} if name == "model" else {}), "nonsense": 1}})
    for name in Recipe.model_fields
    if section_keys(name, {}) is not None
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_it_agrees_with_the_recipe(name: str) -> None:
    try:
        parse_recipe(json.dumps(SAME[name]))
        taken = True
    except RecipeError:
        taken = False
    assert VALIDATOR.is_valid(SAME[name]) == taken
    assert taken == (list(SAME).index(name) <= list(SAME).index("no decoding")), (
        "the list says which are good: the first ones"
    )


def test_the_error_of_a_misspelt_key_names_it() -> None:
    (error,) = VALIDATOR.iter_errors(good(method={"name": "dora", "rnk": 4}))
    assert "'rnk' was unexpected" in error.message
