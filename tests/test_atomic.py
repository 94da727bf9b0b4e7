"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dora_cli.atomic import write_text
from dora_cli.errors import OutputError


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"metrics\.json: No space left on device.*--output"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_written_files_have_the_permissions_of_ordinary_files(tmp_path: Path):
    (tmp_path / "ordinary").write_text("")
    write_text(tmp_path / "record", "")
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_what_a_killed_writer_has_left_goes_with_the_next_writing(tmp_path):
    for name in (
        ".page.html.123.tmp",
        ".page.html.tmp",
        ".page.html.mine.tmp",
        ".another-page.html.123.tmp",
        ".pageXhtml.123.tmp",
    ):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "page.html", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("page.html", ".page.html.tmp", ".page.html.mine.tmp", ".another-page.html.123.tmp", ".pageXhtml.123.tmp")
    }
