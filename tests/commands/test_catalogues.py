"""`dora tasks`, `dora models`, `dora methods` and `dora doctor`."""

from __future__ import annotations

import json
from pathlib import Path

from dora_cli.models import model_catalogue
from dora_cli.recipe.methods import method_catalogue
from dora_cli.tasks import task_catalogue
from tests.commands.conftest import ROOT, dora, forked, process


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
    done = forked("doctor", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["problems"] == []
    assert [package["problem"] for package in found["packages"]] == [None] * len(found["packages"])
    assert {"torch", "transformers", "pydantic"} <= {package["name"] for package in found["packages"]}
    assert found["devices"][0]["device"] == "cpu"
    assert found["hub"]["state"] == "offline"
    assert (found["caches"][2]["path"], found["caches"][2]["problem"]) == (str(tmp_path), None)
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_works_where_pytorch_does_not(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.1: cannot open shared object file')")
    done = process("doctor", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.code, done.err) == (2, "")
    assert "\n  torch: " in done.out
    assert "(OSError: libcudart.so.1: " in done.out
    assert "Devices" not in done.out
