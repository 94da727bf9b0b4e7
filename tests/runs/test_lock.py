"""The lock on a run folder: who comes second is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.runs.lock import RunLock


def test_who_comes_second_is_told(tmp_path: Path) -> None:
    said = f"--output {tmp_path} is in use by another run of dora; wait until it ends or choose another --output"
    with RunLock(tmp_path), pytest.raises(OutputError, match=f"^{re.escape(said)}$"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass
