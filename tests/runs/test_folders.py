"""Checkpoints that cannot be written or read: what is left, and what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from dora_cli.errors import CheckpointError, OutputError
from dora_cli.runs.folders import read_folder, write_folder

PARTS = {"adapter.safetensors": {"A": torch.ones(2)}, "state.json": {"step": 1}}
FULL = os.strerror(errno.ENOSPC)
FIX = "Free some space or fix the folder's permissions, then"


def test_a_checkpoint_that_finds_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "step-1", tmp_path / "step-2"
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", Mock(side_effect=OSError(errno.ENOSPC, FULL)))
        says = f"cannot write checkpoint {first}: {FULL}; none was written before. {FIX} train again with --overwrite"
        with pytest.raises(OutputError, match=f"^{re.escape(says)}$"):
            write_folder(first, PARTS)
        assert list(tmp_path.iterdir()) == []
    write_folder(first, PARTS)
    monkeypatch.setattr("safetensors.torch.save_file", Mock(side_effect=OSError(errno.ENOSPC, FULL)))
    says = (
        f"cannot write checkpoint {second}: {FULL}; the last one that was written is whole. {FIX} go on with --resume"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(says)}$"):
        write_folder(second, PARTS)
    assert list(tmp_path.iterdir()) == [first]


def test_files_are_for_whom_others_of_their_maker_are(tmp_path: Path) -> None:
    """Weights too, which their library makes readable by their owner alone."""
    (tmp_path / "ordinary").touch()
    write_folder(tmp_path / "step-1", PARTS)
    files = list((tmp_path / "step-1").iterdir())
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert {path.stat().st_mode for path in files} == {(tmp_path / "ordinary").stat().st_mode}


def test_a_file_that_is_not_the_one_that_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    write_folder(folder, PARTS)
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"adapter\.safetensors does not match its manifest \(size or SHA-256\); "
    ):
        read_folder(folder, tuple(PARTS))
    path.unlink()
    says = f"{folder} lacks adapter.safetensors; the checkpoint is incomplete, use another one of the run"
    with pytest.raises(CheckpointError, match=f"^{re.escape(says)}$"):
        read_folder(folder, tuple(PARTS))
