"""`dora tasks`, `dora models`, `dora methods` and `dora doctor`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dora_cli import doctor
from dora_cli.doctor.packages import needed_packages
from dora_cli.models import model_catalogue
from dora_cli.recipe.methods import method_catalogue
from dora_cli.tasks import task_catalogue
from tests.commands.conftest import dora, environment
from tests.patience import PATIENCE


def test_tasks() -> None:
    done = dora("tasks")
    assert (done.code, done.err) == (0, "")
    assert all(f"\n{task['name']} " in done.out for task in task_catalogue())
    assert json.loads(dora("tasks", "--json").out) == {"tasks": task_catalogue()}


def test_models() -> None:
    done = dora("models")
    assert (done.code, done.err) == (0, "")
    assert all(model["name"] in done.out for model in model_catalogue()["builtin"])
    assert json.loads(dora("models", "--json").out) == json.loads(json.dumps(model_catalogue()))


def test_methods() -> None:
    done = dora("methods")
    assert (done.code, done.err) == (0, "")
    assert all(method["title"] in done.out for method in method_catalogue())
    assert json.loads(dora("methods", "--json").out) == {"methods": method_catalogue()}


def test_doctor(tmp_path: Path) -> None:
    """It loads no library that may be broken: what it imports is imported side by side, by other processes."""
    code = """
import sys
from dora_cli.commands import app
assert not app(["doctor", "--json"], standalone_mode=False)
loaded = {"torch", "transformers", "datasets", "accelerate", "sklearn", "scipy", "pandas"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert [package["problem"] for package in found["packages"]] == [None] * len(found["packages"])
    assert {"torch", "transformers", "pydantic"} <= {package["name"] for package in found["packages"]}
    assert found["devices"][0]["device"] == "cpu"
    assert found["hub"]["state"] == "offline"
    assert (found["caches"][2]["path"], found["caches"][2]["problem"]) == (str(tmp_path), None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked_for_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_doctor` has it import all others."""
    monkeypatch.setattr(doctor, "needed_packages", lambda: [one for one in needed_packages() if one.name == "torch"])


@pytest.mark.usefixtures("asked_for_pytorch_alone")
def test_the_doctor_works_where_pytorch_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    done = dora("doctor")
    assert (done.code, done.err) == (2, "")
    assert "\n  torch: " in done.out
    assert "(OSError: libcudart.so.1: " in done.out
    assert "Devices" not in done.out


@pytest.mark.usefixtures("asked_for_pytorch_alone")
def test_the_doctor_works_where_pytorch_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os\nos.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    done = dora("doctor", "--json")
    assert (done.code, done.err) == (2, "")
    found = json.loads(done.out)
    assert any(problem.startswith("torch: ") and "signal" in problem for problem in found["problems"])
    assert (found["devices"], found["threads"]["torch"]) == ([], None)
    assert found["threads"]["cores"] >= 1
