from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.recipe import parse_recipe
from dora_cli.recipe.anchor import anchored


def test_folders_become_absolute_and_other_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base model, others that the method names, and data."""
    monkeypatch.chdir(tmp_path)
    for folder in ("base", "other", "data"):
        (tmp_path / folder).mkdir()
    recipe = parse_recipe(
        "task: glue/sst2\nmodel: {name: base}\ndata: {source: files, path: data}\n"
        "method: {name: cora, models: [other, builtin:tiny-encoder, some/model]}\n"
    )
    found = anchored(recipe)
    assert found.model.name == str(tmp_path / "base")
    assert found.data.path == str(tmp_path / "data")
    assert found.method.models == (str(tmp_path / "other"), "builtin:tiny-encoder", "some/model")
    assert anchored(found) == found
