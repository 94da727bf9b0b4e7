"""Libraries that are broken in worse ways than by raising, each in a process that it may take with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.doctor.imports import MACHINE, answers


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11, "),
        ("raise SystemExit(7)", "exit code 7"),
    ],
)
def test_an_import_that_ends_its_process_is_a_finding_and_the_rest_is_looked_at(
    code: str, how: str, site: Path
) -> None:
    (site / "fatal_package.py").write_text(code)
    (site / "broken_package.py").write_text("raise RuntimeError('no libfoo')")
    found = answers(["json", "fatal_package", "broken_package"])
    assert list(found) == ["json", "fatal_package", "broken_package"]
    assert found["json"] is None
    assert found["fatal_package"].startswith(f"is installed but importing it ends the process ({how}")
    assert "no libfoo" in found["broken_package"]


def test_what_is_printed_or_warned_of_meanwhile_goes_nowhere(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = ["import os, sys, warnings", "print('chatter')", "os.write(1, b'deep chatter')"]
    lines += ["print('chatter', file=sys.stderr)", "warnings.warn('chatter')"]
    (site / "loud_package.py").write_text("\n".join(lines))
    assert answers(["loud_package"]) == {"loud_package": None}
    assert capfd.readouterr() == ("", "")


def test_only_the_path_of_this_program_counts(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program does not look among the files of the folder it is called in."""
    (here := tmp_path / "here").mkdir()
    (here / "json.py").write_text("raise RuntimeError('mine')")
    monkeypatch.chdir(here)
    assert answers(["json"]) == {"json": None}


def test_a_pytorch_that_ends_its_process_leaves_the_machine_unknown(site: Path) -> None:
    (site / "torch.py").write_text("import os; os.abort()")
    found = answers(["torch", MACHINE])
    assert "signal 6" in found["torch"]
    assert found[MACHINE] is None


def test_nothing_is_started_for_nothing() -> None:
    assert answers([]) == {}
