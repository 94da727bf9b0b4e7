"""The program as its users meet it: in this process where that is quick, as a process of its own where the difference
matters.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dora_cli.commands import program
from tests import processes
from tests.patience import PATIENCE
from tests.processes import Done
from tests.training.conftest import tiny_model

__all__ = ["tiny_model"]

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
STEPS = 24  # 94 examples / 16 -> 6 steps x 4 epochs; the freeze is after step floor(0.15 * 24) + floor(0.35 * 24) = 11


def dora(*arguments: object) -> Done:
    """Runs a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            program()([str(argument) for argument in arguments], prog_name="dora")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process: no network, one thread, 80 columns, colours left to the program."""
    kept = {name: value for name, value in os.environ.items() if name not in _TERMINAL}
    return (
        kept
        | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        | changes
    )


_TERMINAL = (
    "COLUMNS",
    "LINES",
    "FORCE_COLOR",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "PY_COLORS",
    "GITHUB_ACTIONS",
)


def process(*arguments: object, cwd: Path, **changes: str) -> Done:
    """Runs a command as a process of its own, its output taken through pipes."""
    command = [sys.executable, "-m", "dora_cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**changes), capture_output=True, encoding="utf-8", timeout=PATIENCE
    )
    return Done(done.returncode, done.stdout, done.stderr)


def forked(*arguments: object, cwd: Path, **changes: str) -> Done:
    """The same, but for the start and the end of the interpreter: see `tests.processes`."""
    return processes.run(*arguments, cwd=cwd, environment=environment(**changes))


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _TERMINAL:
        monkeypatch.delenv(name, raising=False)


def recipe_text(model: Path | str) -> str:
    return f"""\
task: glue/sst2
model: {{name: "{model}"}}
data: {{source: builtin, max_train_samples: 94, max_eval_samples: 40}}
method: {{name: dora, rank: 2, prune_interval: 3, dropout: 0.0}}
train: {{epochs: 4, batch_size: 16, learning_rate: 5.0e-3, log_every: 5, device: cpu}}
"""


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``small.yaml`` in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    path = Path("small.yaml")
    path.write_text(recipe_text(tiny_model))
    return path


@dataclass(frozen=True)
class Trained:
    """A run made by ``dora train recipes/small.yaml`` in `cwd`."""

    cwd: Path
    folder: Path
    done: Done


@pytest.fixture(scope="session")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One run for all tests, by a process of its own in a folder with a space; nobody changes it."""
    cwd = tmp_path_factory.mktemp("some place")
    (cwd / "recipes").mkdir()
    (cwd / "recipes" / "small.yaml").write_text(recipe_text(tiny_model))
    done = forked("train", "recipes/small.yaml", cwd=cwd)
    assert done.code == 0, done.err
    return Trained(cwd, cwd / "runs" / "recipes-small", done)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below `folder` with its bytes, every folder with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


Refuse = Callable[..., str]


@pytest.fixture
def refuses(tmp_path: Path) -> Refuse:
    """Runs a command that must refuse, and checks all that a refusal has in common; returns the message."""

    def refuse(*arguments: object, says: Sequence[str]) -> str:
        before = contents(tmp_path)
        done = dora(*arguments)
        assert (done.code, done.out) == (2, ""), done
        assert done.err.startswith("dora: error:"), done.err
        assert done.err.count("error:") == 1, done.err
        assert "Traceback" not in done.err
        for part in says:
            assert part in done.err, done.err
        assert contents(tmp_path) == before, "a refused command has written something"
        return done.err

    return refuse
