"""Libraries that the program does without: broken ones stop nothing, and what needs them has them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from dora_cli.machine import capture
from dora_cli.machine.capture import Question
from dora_cli.training import capture_probe, capture_trial
from tests.commands.conftest import CONFIGS, ROOT, environment, process
from tests.patience import PATIENCE

SHORT = ("--set", "train.max_steps=8", "--set", "train.lr_warmup_fraction=0")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A PYTHONPATH with a torchvision built for another PyTorch.

    Transformers would load it with every model, where Pillow is there too.
    """
    pytest.importorskip("PIL")
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    return os.pathsep.join([str(tmp_path / "site"), str(ROOT)])


def test_a_broken_torchvision_stops_nothing(tmp_path: Path, broken: str) -> None:
    done = process("train", CONFIGS / "demo" / "sst2.yaml", "--dry-run", cwd=tmp_path, PYTHONPATH=broken)
    assert done.code == 0, done.err


def test_nor_a_trial_of_a_model(broken: str) -> None:
    config = BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=99, num_hidden_layers=1)
    question = Question.of(BertForSequenceClassification(config), "fp32")
    told = json.dumps({**asdict(question), "device": "cpu"})
    here = environment(PYTHONPATH=broken)
    done = subprocess.run(capture._COMMAND, input=told, env=here, capture_output=True, text=True, timeout=PATIENCE)
    assert json.loads(done.stdout) == {"captured": True}, done.stdout + done.stderr
    assert done.returncode == 0


def test_a_trial_that_cannot_import_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1: the answer is the installation's at the moment, and is not kept."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"device": "cpu"}'))

    def broken(*arguments: object, **others: object) -> None:
        raise ModuleNotFoundError("Could not import module 'BertForSequenceClassification'")

    monkeypatch.setattr(capture_trial, "try_steps", broken)
    assert capture_probe.main() == 1
    assert json.loads(capsys.readouterr().out) == {
        "captured": False,
        "reason": "Could not import module 'BertForSequenceClassification'",
    }


def test_code_that_comes_with_a_model_may_load_torchvision(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").touch()
    code = """
from importlib import import_module
from dora_cli.libraries import bring_back, leave_out
leave_out()
try:
    import_module("torchvision")
except ModuleNotFoundError:
    bring_back()
    import_module("torchvision")
    bring_back()
    import sys
    print(sys.modules["torchvision"].__name__)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "torchvision\n", done.stderr


@pytest.fixture
def no_statistics(tmp_path: Path) -> str:
    """A PYTHONPATH with a scipy, a scikit-learn and a PEFT that are broken."""
    for name in ("scipy", "sklearn", "peft"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("raise ValueError('numpy.dtype size changed')\n")
    return os.pathsep.join([str(tmp_path / "site"), str(ROOT)])


_SEVERAL = """
import json, os, sys
from dora_cli.libraries import leave_out, sleep_while_waiting
sleep_while_waiting()
leave_out()
import dora_cli.reports.progress, dora_cli.training.run
from dora_cli.__main__ import main
codes = []
for arguments in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        main(arguments)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
"""The program, loaded once, as it begins itself, for several commands one after the other."""


def train_on(*tasks: str, cwd: Path, **changes: str) -> tuple[list[int], str]:
    """Short runs; returns their exit codes, and what was said."""
    shared = ["train", str(CONFIGS / "demo" / "sst2.yaml"), *SHORT]
    commands = [[*shared, "--set", f"task=glue/{task}", "--output", task] for task in tasks]
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL, json.dumps(commands)], cwd=cwd, env=environment(**changes),
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def metrics_of(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())["metrics"]


def test_what_needs_statistics_has_them(tmp_path: Path) -> None:
    """Scipy and scikit-learn."""
    assert train_on("stsb", "cola", cwd=tmp_path)[0] == [0, 0]
    assert "spearmanr" in metrics_of(tmp_path / "stsb")
    assert "matthews_correlation" in metrics_of(tmp_path / "cola")


def test_what_needs_them_says_so_and_leaves_nothing_and_accuracy_does_without(
    tmp_path: Path, no_statistics: str
) -> None:
    codes, said = train_on("sst2", "cola", cwd=tmp_path, PYTHONPATH=no_statistics)
    assert codes == [0, 2]
    assert "accuracy" in metrics_of(tmp_path / "sst2")
    assert said.splitlines()[-1].startswith(
        "dora: error: what computes the metric matthews cannot be loaded (ValueError: numpy.dtype size changed); "
        "dora doctor says which"
    )
    assert "Traceback" not in said
    assert not any((tmp_path / "cola").rglob("*")), "something is in the way of the next"
