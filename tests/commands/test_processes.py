"""``dora train --processes``: what is said and refused before a process is started. Those that start some are in
`tests/training/test_distributed.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dora_cli.machine import launch
from dora_cli.recipe import Recipe
from tests.commands.conftest import Refuse, dora, environment, recipe_text
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "usable_cores", lambda: 2)


WAITS = """
import json, sys
from dora_cli.machine import launch
from dora_cli.__main__ import main

def run_together(command, processes):
    print(json.dumps([command, processes, sorted({"torch", "transformers", "numpy"} & set(sys.modules))]))
    return 3

launch.usable_cores, launch.run_together = lambda: 2, run_together
main()
"""


def test_what_starts_them_gives_them_its_own_words_and_loads_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    """It would take the cores that they load it with. Notes on the recipe are theirs to give."""
    recipe = recipe_text(tiny_model).replace("epochs: 4", "epochs: 4, max_steps: 30")
    (tmp_path / "small.yaml").write_text(recipe)
    words = ["--debug", "train", "small.yaml", "--processes=2", "--set", "train.threads=1", "-o", "run", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", WAITS, *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (3, "")
    command, processes, heavy = json.loads(done.stdout)
    assert (processes, heavy) == (2, [])
    assert command[4:] == words
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]
    version = subprocess.run([*command[:4], "--version"], env=environment(), capture_output=True, text=True)
    assert version.stdout.startswith("dora "), version.stderr


@pytest.mark.parametrize("more", [(), ("--seeds", "1,2")])
def test_a_dry_run_says_how_many(recipe: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr("dora_cli.machine.threads.cores_of_quota", lambda path: None)
    alone, two = dora("train", recipe, "--dry-run", *more), dora("train", recipe, "--dry-run", "--processes", 2, *more)
    assert (alone.code, two.code) == (0, 0), two.err
    assert "16 examples = train.batch_size 16 x gradient_accumulation 1 x 1 process\n" in alone.out
    assert "32 examples = train.batch_size 16 x gradient_accumulation 1 x 2 processes\n" in two.out
    assert "this machine gives 6)" in alone.out
    assert "this machine gives 3), in each process\n" in two.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--processes", "3"), ["--processes 3", "2"]),
        (("--processes", "2", "--set", "train.device=cuda:1"), ["train.device is cuda:1", "train.device: cuda"]),
        (("--processes", "2", "--set", "train.epoch=3"), ["train.epoch"]),
        (("--processes", "2", "--seeds", "1,1"), ["--seeds 1,1"]),
        (("--processes", "2", "--dry-run", "--quiet"), ["--quiet"]),
    ],
)
def test_nothing_is_started_for_what_is_refused(
    recipe: Path, refuses: Refuse, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: list[str]
) -> None:
    monkeypatch.setattr(launch, "run_together", None)
    refuses("train", recipe, *arguments, says=says)


def test_more_than_the_cores_go_on_with_a_run(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "run_together", lambda command, processes: processes)
    assert dora("train", recipe, "--processes", 3, "--resume").code == 3
    assert dora("train", recipe, "--processes", 3, "--seeds", "1,2").code == 3


def test_beside_torchs_launcher_it_is_refused(recipe: Path, refuses: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for words in (("--processes", "2"), ("--processes", "1", "--dry-run")):
        refuses("train", recipe, *words, says=["RANK=0"])


def test_one_process_is_this_one(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train_one(recipe: Recipe, folder: Path, how: str, **options: bool) -> None:
        trained.append(how)

    monkeypatch.setattr(launch, "run_together", None)
    monkeypatch.setattr("dora_cli.commands.train._train_one", train_one)
    assert dora("train", recipe, "--processes", 1, "--output", "run").code == 0
    assert trained == ["go on with: dora train small.yaml --output run --resume"]
