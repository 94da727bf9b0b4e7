"""Two processes (gloo) against one at the same global batch: the same ranks and weights, through the freeze and compaction."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dora_cli import dump_recipe, evaluate, train
from tests.training.conftest import MakeRecipe
from tests.training.test_run import STEPS, largest_difference, lines, read


def launch(recipe: Path, output: Path, processes: int) -> None:
    """As ``accelerate launch --cpu --num_processes N`` does, without its configuration file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    program = Path(__file__).with_name("distributed_run.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        str(program),
        str(recipe),
        str(output),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("compact", ["true", "false"])
def test_two_processes_equal_one(make_recipe: MakeRecipe, tmp_path: Path, compact: str) -> None:
    """Global batch 16 as 2 x 4 x 2 and as 1 x 16; 83 examples leave 3 for the last step of an epoch, so that one process has none."""
    common = ("data.max_train_samples=83", "method.dem_until=end", f"method.compact={compact}")
    assert 83 % 16 == 3
    train(make_recipe("train.batch_size=16", *common), tmp_path / "one")
    two = make_recipe("train.batch_size=4", "train.gradient_accumulation=2", *common)
    (tmp_path / "two.yaml").write_text(dump_recipe(two))
    launch(tmp_path / "two.yaml", tmp_path / "two", 2)
    ranks = [read(tmp_path / name / "ranks.json") for name in ("one", "two")]
    assert [layer["rank"] for layer in ranks[0]["layers"]] == [layer["rank"] for layer in ranks[1]["layers"]]
    assert ranks[0]["history"] == ranks[1]["history"]
    last = f"checkpoints/step-{STEPS}"
    assert largest_difference(tmp_path / "one" / last, tmp_path / "two" / last) < 2e-6  # fp32 sums in another order
    for first, second in zip(lines(tmp_path / "one" / "log.jsonl"), lines(tmp_path / "two" / "log.jsonl"), strict=True):
        if first["type"] == "train":
            assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)
        else:
            assert first["metrics"] == second["metrics"]
    assert read(tmp_path / "two" / "environment.json")["processes"] == 2
    assert evaluate(tmp_path / "two")["metrics"] == read(tmp_path / "two" / "metrics.json")["metrics"]
