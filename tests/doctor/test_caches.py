"""Folders that are written to, and those that cannot be."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from dora_cli.doctor import caches
from dora_cli.doctor.caches import look_at_caches


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(caches, "_hub_cache", lambda: tmp_path / "not" / "yet")
    monkeypatch.setattr(caches, "_datasets_cache", lambda: tmp_path / "file" / "cache")
    models, data, here, temporary = look_at_caches()
    assert (models["exists"], models["problem"]) == (False, None)
    assert models["free_bytes"] > 0
    assert data["problem"] == f"cannot be made: {tmp_path / 'file'} is a file"
    assert (here["path"], here["exists"], here["problem"]) == (str(tmp_path), True, None)
    assert (temporary["path"], temporary["needed"], temporary["problem"]) == (tempfile.gettempdir(), True, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "nothing is left behind"


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(caches.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(caches.tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(caches, "_hub_cache", lambda: tmp_path)
    monkeypatch.setattr(caches, "_datasets_cache", lambda: None)
    models, data, _, temporary = look_at_caches()
    assert models["problem"] == "cannot be written: Permission denied"
    assert data["problem"].startswith("is not known")
    assert temporary["problem"] == "No usable temporary directory found; set TMPDIR to a writable folder"
