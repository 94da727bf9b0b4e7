"""What a worker does between two runs."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

from dora_cli.compare.jobs import Job
from dora_cli.compare.workers.worker import ready
from dora_cli.training.loop import Loop
from tests.training.conftest import MakeRecipe


def test_a_run_leaves_no_model_behind(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a worker would hold those of several runs at once, and run out of memory where one run alone does not."""
    models: list[weakref.ref[Any]] = []
    run = Loop.run

    def watched(self: Loop) -> Any:
        models.append(weakref.ref(self.adapted.model))
        return run(self)

    monkeypatch.setattr(Loop, "run", watched)
    make = ready()
    for name in ("one", "two"):
        ended, used = make(Job(name, tmp_path / name, make_recipe("train.epochs=2")))
        assert (ended.outcome, used) == ("finished", None)
        assert models[-1]() is None
