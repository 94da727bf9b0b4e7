"""What only a process of its own shows: pipes, signals, the disk, the current folder."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import ROOT, Trained, contents, environment, forked, process, recipe_text
from tests.patience import PATIENCE
from tests.processes import end_of, send, start

posix = pytest.mark.skipif(os.name != "posix", reason="signals and devices of POSIX")


def test_ranks_takes_the_newest_run_of_the_current_folder(trained: Trained) -> None:
    done = process("ranks", cwd=trained.cwd)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "runs/recipes-small"
    assert re.search(r"^Live: 12 .* 12 \(rank 2 x 6 ", done.out, flags=re.MULTILINE)
    assert "\x1b" not in done.out
    assert done.out == forked("ranks", "runs/recipes-small", cwd=trained.cwd).out
    as_json = forked("ranks", "--json", cwd=trained.cwd).out
    assert json.loads(as_json) == json.loads((trained.folder / "ranks.json").read_text())


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_is_longer_than_the_terminal(trained: Trained, columns: int) -> None:
    done = forked("ranks", cwd=trained.cwd, COLUMNS=str(columns))
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= columns


def test_colours_where_they_are_asked_for(trained: Trained) -> None:
    assert "\x1b[" in forked("ranks", cwd=trained.cwd, FORCE_COLOR="1").out


def test_a_terminal_without_unicode(trained: Trained) -> None:
    done = process("ranks", cwd=trained.cwd, PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()


@posix
@pytest.mark.parametrize("arguments", ["ranks", "ranks --json", "--help"])
def test_a_reader_that_stops_reading(trained: Trained, arguments: str) -> None:
    """``dora ranks | head -1``: no traceback, no complaint."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dora_cli", *arguments.split()]
    done = subprocess.run(
        command, cwd=trained.cwd, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode != 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_results_onto_a_full_disk(trained: Trained) -> None:
    command = [sys.executable, "-m", "dora_cli", "ranks"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            cwd=trained.cwd,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("dora: error: output ")
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback_and_nothing_else_does(tmp_path: Path) -> None:
    plain = forked("ranks", "away", cwd=tmp_path)
    assert (plain.code, plain.out) == (2, "")
    assert re.match(r"dora: error: .*\baway\b", plain.err)
    debug = forked("--debug", "ranks", "away", cwd=tmp_path)
    assert debug.code == 2
    assert debug.err.startswith("Traceback (most recent call last):")
    assert re.search(r"^(\w+\.)*CheckpointError: .*\baway\b", debug.err, flags=re.MULTILINE)


@posix
def test_an_interrupted_run(trained: Trained, tiny_model: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 and one line that says how to go on; what it says can be copied."""
    (tmp_path / "long.yaml").write_text(recipe_text(tiny_model))
    reader, writer = os.pipe()
    run = start(
        "train", "long.yaml", "--set", "train.epochs=100000",
        cwd=tmp_path, environment=environment(), stdout=writer, stderr=writer,
    )  # fmt: skip
    os.close(writer)
    with open(reader, encoding="utf-8") as printed:
        while not (line := printed.readline()).startswith("step "):
            assert line, "the run ended by itself"
        send(run, signal.SIGINT)
        err = printed.read()
    assert end_of(run) == 130
    last = err.splitlines()[-1]
    assert re.fullmatch(
        r"dora: .* SIGINT .* [0-9,]+; .*: "
        r"dora train long\.yaml --output runs/long --set train\.epochs=100000 --resume",
        last,
    )
    assert "Traceback" not in err
    assert not (tmp_path / "runs" / "long" / "metrics.json").exists(), "metrics.json says that a run is finished"


def test_the_installed_program_is_the_module(trained: Trained) -> None:
    program = shutil.which("dora", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the package is not installed")
    done = subprocess.run(
        [program, "ranks", trained.folder],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == forked("ranks", cwd=trained.cwd).out.splitlines()[1:]


def test_reading_a_run_changes_nothing(trained: Trained) -> None:
    before = contents(trained.cwd)
    forked("ranks", cwd=trained.cwd)
    assert contents(trained.cwd) == before


@posix
def test_a_run_outlives_whoever_reads_it(trained: Trained, tiny_model: Path, tmp_path: Path) -> None:
    """``dora train ... 2>&1 | head -1``: what is said later is lost, what is trained is not."""
    (tmp_path / "run.yaml").write_text(recipe_text(tiny_model))
    reader, writer = os.pipe()
    run = start("train", "run.yaml", cwd=tmp_path, environment=environment(), stderr=writer)
    os.close(writer)
    assert os.read(reader, 1)
    os.close(reader)
    assert end_of(run) == 0
    assert (tmp_path / "runs" / "run" / "metrics.json").is_file()


@posix
def test_an_interrupted_run_on_a_terminal_leaves_it_clean(tiny_model: Path, tmp_path: Path) -> None:
    """The live view is gone, the cursor is back, and the message stands below what was said."""
    import pty

    (tmp_path / "long.yaml").write_text(recipe_text(tiny_model))
    main, other = pty.openpty()
    run = start(
        "train", "long.yaml", "--set", "train.epochs=100000", cwd=tmp_path,
        environment=environment(TERM="xterm-256color", CI=""), stdin=other, stdout=other, stderr=other,
    )  # fmt: skip
    os.close(other)
    output, sent = b"", False
    try:
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not piece:
                break
            output += piece
            if not sent and b"phase" in output and b"warm-up" in output:
                # once: a second one means "do not save", and the view goes on until the step ends
                send(run, signal.SIGINT)
                sent = True
        assert end_of(run) == 130
    finally:
        run.kill()
        os.close(main)
    text = output.decode()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    after = text[text.index("\x1b[?25h") :]
    assert re.fullmatch(
        r"\x1b\[\?25h(\r\n)*dora: .* SIGINT .* [0-9,]+; .*: dora train "
        r".*--resume\r\n",
        after,
        re.DOTALL,
    )


@posix
def test_a_terminal_that_is_closed_costs_nothing(tiny_model: Path, tmp_path: Path) -> None:
    """A connection that drops hangs up: the run saves itself, though nobody can read what it says."""
    import pty

    (tmp_path / "long.yaml").write_text(recipe_text(tiny_model))
    main, other = pty.openpty()
    run = start(
        "train", "long.yaml", "--set", "train.epochs=100000", cwd=tmp_path,
        environment=environment(TERM="xterm-256color", CI=""), stdin=other, stdout=other, stderr=other,
        takes_terminal=True,
    )  # fmt: skip
    os.close(other)
    output = b""
    try:
        while not (b"phase" in output and b"warm-up" in output):
            output += os.read(main, 65536)
        os.close(main)
        assert end_of(run) == 129
    finally:
        run.kill()
    assert list((tmp_path / "runs" / "long" / "checkpoints").glob("step-*"))
