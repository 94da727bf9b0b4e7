from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the scripts, which import each other by name."""
    folder = Path(__file__).parents[2] / "scripts"
    monkeypatch.syspath_prepend(folder)
    return folder
