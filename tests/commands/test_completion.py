"""Completion of the command line, by the shells themselves where they are there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import environment, forked
from tests.patience import PATIENCE


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with a `dora` that is this one."""
    script = tmp_path / "bin" / "dora"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from dora_cli.commands import app; app(prog_name=\'dora\')" "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{script.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dora in", ["init"]),
        ("dora init glue/r", ["glue/rte"]),
        ("dora export --format ", ["peft", "merged"]),
        ("dora export --layout ", ["patterns", "constant-alpha", "uniform"]),
        ("dora ranks --as ", ["rank-pattern"]),
        ("dora init --ov", ["--overwrite"]),
    ],
)
def test_what_is_offered(words: str, expected: list[str], tmp_path: Path) -> None:
    done = forked(cwd=tmp_path, COMP_WORDS=words, COMP_CWORD=str(words.count(" ")), _DORA_COMPLETE="complete_bash")
    assert (done.out.split(), done.err) == (expected, "")


INSTALLED = {"bash": ".bash_completions/dora.sh", "zsh": ".zfunc/_dora", "fish": ".config/fish/completions/dora.fish"}


@pytest.mark.parametrize("shell", INSTALLED)
def test_each_shell_completes_after_the_installation(shell: str, tmp_path: Path, path: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    home = tmp_path / "home"
    home.mkdir()
    kept = environment(PATH=path, HOME=str(home), ZDOTDIR=str(home), XDG_CONFIG_HOME=str(home / ".config"))

    def run(*command: str) -> str:
        done = subprocess.run(
            [shell, *command], env=kept, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # "true" keeps the shell from being replaced by dora, which asks for its parent's name
    assert f"{shell} completion installed" in run("-c", "dora --install-completion; true")
    script = home / INSTALLED[shell]
    assert script.is_file()
    if shell == "bash":
        ask = (
            f"source {script}; COMP_WORDS=(dora init glue/st); COMP_CWORD=2; _dora_completion dora; echo "
            f'"${{COMPREPLY[@]}}"'
        )
        assert run("-c", ask) == "glue/stsb\n"
        assert "-o default" in script.read_text(), "recipes and folders are completed as files"
    elif shell == "fish":
        assert run("-c", "complete -C 'dora init glue/st'").split() == ["glue/stsb"]
    else:
        # what its completion system would evaluate
        ask = (
            f"_arguments() {{ print -r -- $* }}; compdef() {{ }}; words=(dora init glue/st); CURRENT=3; source "
            f"{script}; _dora_completion"
        )
        assert run("-c", ask) == '*: :(("glue/stsb"))\n'
