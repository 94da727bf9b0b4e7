"""A method that does not fit its base model is refused before its weights are loaded, unless these are few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dora_cli import train
from dora_cli.assembly import prepare
from dora_cli.errors import DoraError
from tests.training.conftest import MakeRecipe


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        "method={name: melora, rank: 2, minis: 3}",  # three do not divide 16 inputs
        "method={name: cora, models: [builtin:tiny-decoder]}",
        "method={name: lora, rank: 2, targets: ['*.nothing']}",
    ],
)
def test_what_does_not_fit(
    few: bool, change: str, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[str] = []
    load_base = prepare.load_base

    def noted(recipe: Any, task: Any) -> Any:
        loaded.append(recipe.model.name)
        return load_base(recipe, task)

    monkeypatch.setattr(prepare, "load_base", noted)
    monkeypatch.setattr(prepare, "weighs_little", lambda name: few)
    monkeypatch.setattr(prepare, "choose_capture", lambda *_: pytest.fail("steps are tried with what does not fit"))
    recipe = make_recipe(change)
    with pytest.raises(DoraError):
        train(recipe, tmp_path / "run")
    assert loaded == ([recipe.model.name] if few else [])
