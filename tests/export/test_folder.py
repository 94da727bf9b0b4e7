"""Where an export goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dora_cli.errors import OutputError
from dora_cli.export.folder import RECORD, check_export_folder, export_folder, write_record

EXPORT: dict[str, object] = {
    "dora": "0.1.0",
    "format": "peft",
    "dtype": "float32",
    "task": None,
    "method": "dora",
    "step": 9,
    "frozen": True,
    **dict.fromkeys(("components", "live_components", "adapter_parameters", "live_parameters", "head_parameters"), 0),
    "probe": {"difference": 0.0, "largest": 1.0, "tokens": 8, "by": None},
}


def write(output: Path, name: str = "weights", *, overwrite: bool = False) -> None:
    with export_folder(output, overwrite=overwrite) as folder:
        (folder / name).write_text(name)
        write_record(folder, EXPORT)


def test_it_is_whole_or_not_there(tmp_path: Path) -> None:
    def broken() -> None:
        with export_folder(tmp_path / "out", overwrite=False) as folder:
            (folder / "weights").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device"):
        broken()
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weights", RECORD}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_is_replaced_only_when_asked_and_by_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(OutputError, match=r"holds an export already.*--overwrite"):
        check_export_folder(out, overwrite=False)
    check_export_folder(out, overwrite=True)

    def interrupted() -> None:
        with export_folder(out, overwrite=True) as folder:
            (folder / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name for path in out.iterdir()} == {"old", RECORD}
    write(out, "new", overwrite=True)
    assert {path.name for path in out.iterdir()} == {"new", RECORD}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_export_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        check_export_folder(tmp_path / "file", overwrite=overwrite)
    with pytest.raises(OutputError, match="not empty and holds no export"):
        check_export_folder(tmp_path, overwrite=overwrite)
    with pytest.raises(OutputError, match="--output "):
        check_export_folder(tmp_path / "file" / "out", overwrite=overwrite)
    write(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes\.txt, which is no part of an export"):
        check_export_folder(tmp_path / "out", overwrite=overwrite)


@pytest.mark.parametrize("record", ["", "[1]", '{"files": 3}', '{"files": {"../file": 1}}'])
def test_a_record_by_a_stranger_opens_nothing(tmp_path: Path, record: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RECORD).write_text(record)
    (tmp_path / "out" / "more").write_text("more")
    with pytest.raises(OutputError, match=r"holds dora_export\.json,"):
        write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "out" / "more").read_text() == "more"


def test_the_folder_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(Path("."))
    assert {path.name for path in Path().iterdir()} == {"weights", RECORD}
    write(Path("."), "other", overwrite=True)
    assert {path.name for path in Path().iterdir()} == {"other", RECORD}


@pytest.mark.parametrize("step", range(8))
def test_a_killed_filling_of_the_users_folder_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The folder where the user stands is emptied and filled in steps; half of them is no reason to refuse the next
    export.
    """
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(Path("."), "old")
    with monkeypatch.context() as killed:
        kill_at(killed, step)
        with pytest.raises(Killed):
            write(Path("."), "new", overwrite=True)
    assert (Path() / RECORD).is_file()
    write(Path("."), "new", overwrite=True)
    assert {path.name for path in Path().iterdir()} == {"new", RECORD}
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


class Killed(BaseException):
    """Nothing is done after it, as in a process that is gone."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends a process before its change number `step` of the file system, counted from 0, and all that
    it would do then.
    """
    done = 0

    def ending(change: Any) -> Any:
        def counted(*arguments: Any, **others: Any) -> Any:
            nonlocal done
            done += 1
            if done > step:
                raise Killed
            return change(*arguments, **others)

        return counted

    for owner, name in (
        (Path, "rename"),
        (Path, "replace"),
        (Path, "unlink"),
        (Path, "rmdir"),
        (shutil, "rmtree"),
        (os, "replace"),
    ):
        monkeypatch.setattr(owner, name, ending(getattr(owner, name)))


@pytest.mark.parametrize("aside", [False, True])
def test_what_a_killed_export_has_left(tmp_path: Path, aside: bool) -> None:
    """Half a folder goes; the earlier export that was moved aside counts as if it were in its place,
    and is put back.
    """
    out, beside = tmp_path / "out", tmp_path / ".out.dora.partial"
    write(out, "old")
    if aside:
        out.rename(tmp_path / ".out.dora.old")
        with pytest.raises(OutputError, match="--overwrite"):
            write(out, "new")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    beside.mkdir()
    (beside / "half").write_text("half")
    (beside / "folder").mkdir()
    write(out, "new", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in out.iterdir()} == {"new", RECORD}


def test_of_two_exports_at_once_one_is_refused(tmp_path: Path) -> None:
    with export_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "weights").write_text("weights")
        with pytest.raises(OutputError, match="in use"):
            write(tmp_path / "out")
        write_record(folder, EXPORT)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weights", RECORD}


def test_a_link_in_the_place_of_the_folder_beside_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / ".out.dora.partial").symlink_to(tmp_path / "mine")
    write(tmp_path / "out")
    assert (tmp_path / "mine" / "thesis.tex").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "out"}


def test_others_may_read_it(tmp_path: Path) -> None:
    with export_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "weights").touch(mode=0o600)
        write_record(folder, EXPORT)
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "out" / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode
