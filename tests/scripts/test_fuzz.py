"""The short form of the fuzz script: the first inputs of one seed, and that its eye for faults is sharp."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import pytest

import dora_cli.commands
from tests.hostile.edits import change, edit_file
from tests.hostile.ground import GROUND
from tests.hostile.inputs import Input
from tests.hostile.trial import _run, judge
from tests.processes import CONTEXT, PRELOADED
from tests.training.killing import Warm


def test_some_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried by workers forked from the process that is warm already, which has to be there before the script asks for
    one of its own.
    """
    Warm()
    arguments = ("--inputs", "15", "--seed", "3", "--jobs", "1", "--failures", str(tmp_path / "failures"))
    monkeypatch.setattr(sys, "argv", ["fuzz.py", *arguments])
    monkeypatch.setenv(GROUND, "")  # so that it is put back
    from fuzz import main

    try:
        code = main()
    finally:
        CONTEXT.set_forkserver_preload([PRELOADED])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "15 inputs of seed 3" in printed
    assert "0 faults of 0 kinds" in printed


@pytest.mark.parametrize(
    ("code", "output", "fault"),
    [
        (0, b"done\n", None),
        (2, b"dora: error: no\tsuch\nthing\n", None),
        (2, b"Usage: dora", None),
        (3, b"dora: error: diverged", None),
        (1, b"Aborted!", "exit code 1"),
        (2, b"", "exit code 2 without a message"),
        (2, b"dora: error: \x1b[2J", "raw U+001B in the output"),
        (0, "\x9b31m".encode(), "raw U+009B in the output"),
        (0, b"10%\r20%", "raw U+000D in the output"),
        (0, "abc\u202edef".encode(), "raw U+202E in the output"),
        (2, b"dora: error: \xff", "output that is not UTF-8"),
        (0, b"Traceback (most recent call last):\n", "a traceback in the output"),
    ],
)
def test_what_is_a_fault(code: int, output: bytes, fault: str | None) -> None:
    assert judge(code, output)[0] == fault


def test_an_exception_is_a_fault_named_by_our_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams go to a file in a worker; here the test's own stay."""

    def broken(*arguments: object, **keys: object) -> None:
        raise KeyError("nothing")

    monkeypatch.setattr(dora_cli.commands, "program", lambda: broken)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()
    printed = os.open(tmp_path / "printed", os.O_RDWR | os.O_CREAT)
    code, fault, detail = _run(Input("recipe", "train", ("train",)), tmp_path / "input", printed)
    os.close(printed)
    assert (code, fault) == (None, "KeyError in test_fuzz.py, broken")
    assert detail.endswith("KeyError: 'nothing'\n")


def test_the_same_draws_make_the_same_inputs(tmp_path: Path) -> None:
    content = {
        "recipe.yaml": b"task: glue/rte\nmodel: {name: a}\n",
        "a.json": b'{"a": [1, "b"]}',
        "a.csv": b"a,b\n1,2\n",
        "a.bin": b"abc",
    }
    for name, sound in content.items():
        one, two = ([change(Random(seed), name, sound) for seed in range(40)] for _ in range(2))
        assert one == two
        assert len(set(one)) > 20
    for seed in range(40):
        found = []
        for copy in ("one", "two"):
            folder = tmp_path / f"{copy}-{seed}"
            folder.mkdir()
            (folder / "a.json").write_bytes(content["a.json"])
            edit_file(Random(seed), folder / "a.json")
            path = folder / "a.json"
            found.append(path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 20 else path.is_symlink())
        assert found[0] == found[1]
