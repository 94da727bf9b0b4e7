"""The Python on the page runs, but for what needs a network; the loop of one's own is run beside its other tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dora_cli
from dora_cli import load_recipe
from tests.docs.pages import ROOT, blocks
from tests.docs.test_commands import SHORT
from tests.library.test_own_loop import bert
from tests.library.test_trainer_callback import Rows

PAGE = ROOT / "docs" / "guide" / "python.md"


def code(word: str) -> str:
    """The block in which a word stands."""
    (found,) = [block.text for block in blocks(PAGE, "python") if word in block.text]
    return found


def test_training_and_evaluating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(path: str, overrides: list[str]) -> Any:
        return load_recipe(ROOT / path, [*overrides, *SHORT])

    monkeypatch.setattr(dora_cli, "load_recipe", short)
    monkeypatch.chdir(tmp_path)
    exec(code("evaluate("), {})
    assert (tmp_path / "runs" / "second" / "metrics.json").is_file()


def test_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = code("DoraCallback").replace("1000", "20")
    names: dict[str, Any] = {"dora_cli": dora_cli, "model": bert().train(), "examples": Rows()}
    exec(text, names)
    assert names["method"].frozen
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_every_block_is_run_or_marked() -> None:
    run = ("evaluate(", "DoraCallback", "adjust_gradients")
    for block in blocks(PAGE, "python"):
        compile(block.text, str(PAGE), "exec")
        assert (block.needs == "network") != any(word in block.text for word in run)
