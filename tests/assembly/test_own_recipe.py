"""A recipe for data of one's own: what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.assembly.own_recipe import own_recipe
from dora_cli.errors import DataError


@pytest.mark.parametrize("name", ["absent.csv", "own.txt", "folder"])
def test_the_option_is_named_and_not_a_key_of_a_recipe_that_is_not_there_yet(tmp_path: Path, name: str) -> None:
    (tmp_path / "own.txt").write_text("a film,good")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as caught:
        own_recipe("classification", tmp_path / name)
    assert str(caught.value).startswith(f"--data: '{tmp_path / name}' ")
    assert "data.path" not in str(caught.value)
