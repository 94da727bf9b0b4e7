"""What is loaded when, in one process that begins with nothing loaded, where there is no home to write to; what a
broken library says and what metrics compute there, in processes forked from that one.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import CONFIGS, ROOT
from tests.patience import PATIENCE
from tests.test_libraries import BUILT_FOR_ANOTHER, assert_names_the_guest, bring_broken, install

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")

_SCRIPT = """
import json, os, sys
from dora_cli.__main__ import main
def end(work):
    code = 0
    try:
        work()
    except SystemExit as done:
        code = done.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as those of multiprocessing do: tearing down what is loaded takes longer than these commands
from dora_cli.machine.seeds import set_deterministic
set_deterministic(False)
assert "torch" in sys.modules
early = sorted({"torch._inductor"} & set(sys.modules))
import transformers.pytorch_utils  # which the methods load; they themselves are not there yet
child = os.fork()
if not child:
    os.dup2(os.open("guest/err", os.O_WRONLY | os.O_CREAT), 2)
    sys.path.insert(0, os.path.abspath("guest"))
    end(lambda: __import__("dora_cli.methods"))
os.waitpid(child, 0)
from dora_cli.training.run import train
early += sorted({"datasets", "evaluate", "pandas", "scipy.stats", "sklearn"} & set(sys.modules))
from dora_cli.data.builtin import generate
for split in ("train", "validation"):
    generate("glue/sst2", split)  # once for both that train
import torch._dynamo, torch.distributed.checkpoint, torch.distributed.tensor, transformers.core_model_loading
import transformers.models
early += sorted({"scipy", "torchvision"} & set(sys.modules))
codes = {}
for name in sys.argv[2:]:
    child = os.fork()
    if not child:
        os.chdir(name)
        sys.path.insert(0, os.path.abspath("site"))
        os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT), 2)
        end(lambda: main(["train", sys.argv[1], "--output", "run"]))
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
from dora_cli.metrics.e2e.score import score_e2e
from dora_cli.metrics.hugging_face import Accuracy, PearsonSpearman, compute
import datasets, evaluate, scipy.stats, sklearn.metrics  # once for both
reads, writes = os.pipe()
children = []
for shift in (0, 1):
    results, gives = os.pipe()
    child = os.fork()
    if not child:
        os.close(writes)
        os.read(reads, 1)
        references = [0.0, 2.0, 1.0, 3.0]
        scores = [compute(PearsonSpearman, [0.0, 1.0, 2.0 + i, 9.0 * shift], references) for i in range(20)]
        values = [score["spearmanr"] for score in scores]
        values.append(compute(Accuracy, [shift] * 4, [1, 1, 1, 0])["accuracy"])
        os.write(gives, json.dumps(values).encode())
        os._exit(0)
    os.close(gives)
    children.append((child, results))
os.close(writes)
values = []
for child, results in children:
    values.append(json.loads(os.read(results, 65536)))
    assert os.waitpid(child, 0)[1] == 0
child = os.fork()
if not child:
    for handle, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), handle)
    os.mkdir("work")
    os.chdir("work")
    end(lambda: main(["score", "e2e", "-p", "../outputs.txt", "-r", "../references.txt", "--json"]))
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({"early": early, "metrics": values, "code": code, "broken": codes}))
"""


BROKEN = ["scipy", *(["torchvision"] if find_spec("PIL") is not None else [])]
"""Libraries that are broken there; without PIL transformers leaves torchvision alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homeless")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What the script has printed; what it had `dora score` do is in `folder`."""
    # A home below a device cannot be made or written, not even by root.
    hidden = ("HF_", "XDG_CACHE_HOME", "TRANSFORMERS_CACHE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment |= {
        "HOME": "/dev/null/home",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    (folder / "outputs.txt").write_text("The Eagle is a cheap pub.\nCotto isn't family-friendly\n")
    (folder / "references.txt").write_text("The Eagle is a cheap pub.\nA pub\n\nZizzi\n")
    (folder / "guest").mkdir()
    bring_broken(folder / "guest", "dora_cli.methods")
    for name in BROKEN:
        (folder / name / "site").mkdir(parents=True)
        install(folder / name / "site", name, BUILT_FOR_ANOTHER)
    command = [sys.executable, "-c", _SCRIPT, str(CONFIGS / "demo" / "sst2.yaml"), *BROKEN]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), "what is loaded says nothing"
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_what_trains_is_imported_without_the_libraries_of_metrics(found: dict[str, Any]) -> None:
    """A run loads them once its first step is done; and the compiler never, unless it is to be deterministic."""
    assert found["early"] == []


def test_a_command_that_loads_a_model_says_what_is_broken(found: dict[str, Any], folder: Path) -> None:
    assert found["broken"] == dict.fromkeys(BROKEN, 2)
    for name in BROKEN:
        (line,) = (folder / name / "err").read_text().splitlines()
        assert line.startswith(f"dora: error: {name} 0.1 ")
        assert BUILT_FOR_ANOTHER in line
        assert not (folder / name / "run").exists()


@pytest.mark.usefixtures("found")
def test_a_broken_guest_of_the_methods_is_one_message(folder: Path) -> None:
    assert_names_the_guest((folder / "guest" / "err").read_text(), "dora_cli.methods")


def test_two_processes_at_once_have_their_own_values(found: dict[str, Any]) -> None:
    results = found["metrics"]
    # Last prediction 0: ranks (1.5, 3, 4, 1.5) against (1, 3, 2, 4); centred, (-2, 1, 3, -2) / 2 and (-3, 1, -1, 3) /
    # 2.
    tied = (6 + 1 - 3 - 6) / math.sqrt((4 + 1 + 9 + 4) * (9 + 1 + 1 + 9))
    assert results[0] == pytest.approx([tied] * 20 + [0.25])
    # Last prediction 9: ranks (1, 2, 3, 4) as long as the third is below 9, i < 7: centred products (9 - 1 - 1 + 9)
    # over 20.
    assert results[1][:7] == pytest.approx([0.8] * 7)
    assert results[1][-1] == 0.75


def test_scores_are_printed_as_json_and_nothing_else(found: dict[str, Any], folder: Path) -> None:
    """Whatever libraries say on the way."""
    said = (folder / "err").read_text()
    assert found["code"] == 0, said
    assert json.loads((folder / "out").read_text())["metrics"]["rouge_l"] == pytest.approx(0.5)
    assert all(line.startswith("dora: note: ") for line in said.splitlines())
    assert list((folder / "work").iterdir()) == []
