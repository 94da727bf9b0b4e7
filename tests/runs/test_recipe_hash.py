"""Runs from before a key was added go on: their recipes still have the hash that their checkpoints hold."""

from __future__ import annotations

import pytest

from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods import METHODS
from dora_cli.runs.left_open import HELD_OUT_BY
from dora_cli.runs.resume import ADDED_TO, recipe_hash


def hash_of(method: str) -> str:
    """What it is of a run of an older version, which held out by rows."""
    text = f"task: glue/rte\nmodel: {{name: some/model}}\nmethod: {method}\neval: {{held_out_by: {HELD_OUT_BY}}}\n"
    return recipe_hash(parse_recipe(text))


@pytest.mark.parametrize(
    ("method", "recorded"),
    [
        # as computed before `dora` had a key for its start, its gates, its score and its budget
        ("{}", "2632fbb1e50af04833d8dc828b34b038ba1090436b34fdb32c4785eda5745136"),
        ("{rank: 4, curve: adalora}", "ff10ae1271141c17533236cf692ab04be0f56951a87bfdd52bbdde6392b1b280"),
        ("{name: lora}", "fe90f8c7c2c7d79bb047be9f9ca570fceccd0180c46d44853e8223614800cdc2"),
        (
            "{name: lora, scaling: rank-stabilised, learning_rate_ratio: 4}",
            "2b43d83ad274149f5441004252c438635ea14f4ae42e29d534755c202c48cb08",
        ),
    ],
)
def test_hashes_of_older_runs(method: str, recorded: str) -> None:
    assert hash_of(method) == recorded


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in ADDED_TO.items() for key in keys])
def test_absence_stands_for_the_default(name: str, key: str) -> None:
    section, _, field = key.partition(".")
    assert section == "method"
    assert METHODS[name].model_fields[field].default == ADDED_TO[name][key]


def test_another_value_is_another_run() -> None:
    others = ("{events: 5}", "{budget: parameters}", "{start: lora}", "{learning_rate_ratio: 4}", "{guard: true}")
    assert len({hash_of("{}"), *map(hash_of, others)}) == len(others) + 1
