"""`dora data`: what it prints, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.conftest import Refuse, dora


def test_what_a_recipe_sees(recipe: Path) -> None:
    done = dora("data", recipe)
    assert (done.code, done.err) == (0, "")
    found = json.loads(dora("data", recipe, "--json").out)
    train = found["splits"]["train"]
    assert f"{train['examples']}" in done.out
    for name, count in train["labels"].items():
        assert f"{name}" in done.out
        assert f"{count} (" in done.out
    assert " ".join(found["shown"][0]["tokens"]) in done.out.replace("\n", " ")


def test_changes_count(recipe: Path) -> None:
    found = json.loads(dora("data", recipe, "--json", "--set", "data.max_train_samples=7").out)
    assert found["splits"]["train"]["examples"] == 7


def test_bad_input(recipe: Path, refuses: Refuse) -> None:
    refuses("data", recipe, "--set", "data={source: files, path: nowhere}", says=["data.path", "nowhere"])
    refuses("data", "nowhere.yaml", says=["nowhere.yaml"])
