"""Libraries that are installed but broken, where the program can do without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import CONFIGS, process


def test_a_broken_torchvision_stops_nothing(tmp_path: Path) -> None:
    """As one built for another PyTorch is. Transformers would load it with the model, where Pillow is installed too."""
    pytest.importorskip("PIL")
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    path = f"{tmp_path / 'site'}:{Path(__file__).parents[2]}"
    done = process("train", CONFIGS / "demo" / "sst2.yaml", "--dry-run", cwd=tmp_path, PYTHONPATH=path)
    assert done.code == 0, done.err
