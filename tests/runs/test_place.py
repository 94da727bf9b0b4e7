"""Where results go: what each refusal says, and that nothing is written by one."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.runs.place import check_output, take_output, try_saving

REPLACE = "choose another --output, or pass --overwrite to replace it"


def refused(output: Path, said: str, *, overwrite: bool = False) -> None:
    with pytest.raises(OutputError, match=f"^{re.escape(said)}$"):
        check_output(output, overwrite=overwrite)


def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file", f"--output {tmp_path}/file is a file; name a folder")
    said = f"cannot be written: {tmp_path}/file is a file, not a folder; choose another --output"
    refused(tmp_path / "file" / "run", f"--output {tmp_path}/file/run {said}")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_stays(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    said = "is not empty and holds no run of dora, so --overwrite does not touch it; choose another --output"
    refused(tmp_path, f"--output {tmp_path} {said}", overwrite=overwrite)


@pytest.mark.parametrize(
    ("files", "held"),
    [
        (["recipe.yaml"], "an unfinished run already, which has saved nothing;"),
        (["recipe.yaml", "checkpoints/step-7/manifest.json"], "an unfinished run already; go on with it by --resume,"),
        (["recipe.yaml", "metrics.json"], "a finished run already;"),
        (["seed-1/recipe.yaml"], "runs of several seeds already;"),
    ],
)
def test_a_run_is_replaced_only_when_asked(tmp_path: Path, files: list[str], held: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("of a run")
    refused(tmp_path, f"--output {tmp_path} holds {held} {REPLACE}")
    check_output(tmp_path, overwrite=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="an administrator may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    said = f"cannot be written: no permission in {tmp_path}/locked; choose another --output"
    refused(tmp_path / "locked" / "run", f"--output {tmp_path}/locked/run {said}")


def test_of_two_that_take_a_place_one_is_told(tmp_path: Path) -> None:
    take_output(tmp_path, overwrite=False)
    said = f"--output {tmp_path} was taken by another run just now; choose another --output"
    with pytest.raises(OutputError, match=f"^{re.escape(said)}$"):
        take_output(tmp_path, overwrite=False)


def test_a_place_that_takes_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "rename", refused)
    said = (
        f"--output {tmp_path} cannot hold a save of the run: {os.strerror(errno.EPERM)} in {tmp_path}; free some space"
    )
    with pytest.raises(OutputError, match=f"^{re.escape(said)} or change the folder's permissions, or choose another"):
        try_saving(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1, 2])
def test_a_trial_that_was_killed_is_in_nobodys_way(tmp_path: Path, number: int) -> None:
    """After its file was written, and after its folder was renamed."""
    (tmp_path / f".adapter.trial{number}.partial").mkdir()
    (tmp_path / f".adapter.trial{number}.partial" / "file").write_text("\n")
    try_saving(tmp_path)
    assert list(tmp_path.iterdir()) == []
