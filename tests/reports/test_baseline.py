"""A run that is no better than saying the same of every example says so."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dora_cli.reports.baseline import baseline_note
from dora_cli.reports.progress import RunListener


def record(beaten: bool) -> dict[str, Any]:
    baseline = {"metrics": {"accuracy": 0.6}, "metric": "accuracy", "beaten": beaten}
    return {"seed": 1, "metrics": {"accuracy": 0.6}, "last": {}, "baseline": baseline}


def test_the_note() -> None:
    note = baseline_note(record(False))
    assert note is not None
    assert note.startswith("accuracy 0.6000 is no better than 0.6000, which saying the same of every example gets: ")
    assert baseline_note(record(True)) is None
    assert baseline_note({"metrics": {"accuracy": 0.6}}) is None


@pytest.mark.parametrize("beaten", [True, False])
def test_it_is_said_at_the_end(beaten: bool, tmp_path: Path) -> None:
    heard = io.StringIO()
    listener = RunListener(Console(file=heard), Console(file=io.StringIO()), live=False, brief=True)
    listener.finish(record(beaten), {"layers": []}, tmp_path)
    assert ("no better than" in heard.getvalue()) is not beaten
