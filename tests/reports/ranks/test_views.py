"""Views that fail."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dora_cli.errors import CheckpointError
from dora_cli.reports.ranks.views import View, show


def test_nothing_is_printed_of_a_view_that_fails(tmp_path: Path):
    file = io.StringIO()
    with pytest.raises(CheckpointError):
        show(View(tmp_path / "absent"), Console(file=file))
    assert file.getvalue() == ""
