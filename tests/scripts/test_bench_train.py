"""The benchmark of whole runs: that its parts add up and are the run's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import environment
from tests.processes import CONTEXT, begin, end_of

RECIPE = """
task: glue/sst2
model: {name: builtin:tiny-encoder}
data: {source: builtin, max_train_samples: 32, max_eval_samples: 16}
method: {name: dora, rank: 2, prune_interval: 2}
train: {epochs: 2, batch_size: 4, learning_rate: 5.0e-3, log_every: 5, device: cpu}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def _child(script: str, arguments: list[str]) -> None:
    begin(environment())
    sys.path.insert(0, str(Path(script).parent))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from bench_train import child

    assert arguments.pop(0) == "--child"
    child(Path(arguments.pop(0)), arguments)


def forked(command: list[str], **_: object) -> subprocess.CompletedProcess[Any]:
    """What `subprocess.run` does with the command, in a process that has loaded everything."""
    python, script, *arguments = command
    assert python == sys.executable
    process = CONTEXT.Process(target=_child, args=(script, arguments))
    process.start()
    return subprocess.CompletedProcess(command, end_of(process))


def test_the_parts_of_a_run_add_up(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_train
    from bench_train import main

    monkeypatch.setattr(bench_train.subprocess, "run", forked)

    target = tmp_path / "record.json"
    assert (
        main([str(recipe), "--set", "train.batch_size=8", "--output", str(tmp_path / "run"), "--json", str(target)])
        == 0
    )
    record, metrics = json.loads(target.read_text()), json.loads((tmp_path / "run" / "metrics.json").read_text())
    seconds = record["seconds"]
    assert list(seconds) == [
        "imports", "read", "load", "adapt", "encode", "in steps", "between", "evaluation", "decoding", "saving", "rest",
        "end",
    ]  # fmt: skip
    assert sum(seconds.values()) == pytest.approx(record["wall_seconds"])
    assert all(value > 0 for part, value in seconds.items() if part != "decoding")
    assert seconds["in steps"] + seconds["between"] == pytest.approx(metrics["timing"]["train_seconds"])
    assert record["steps"] == metrics["epochs"][-1]["step"] == 2 * 32 // 8
    assert seconds["imports"] < record["first_step_began_at"] < record["first_step_done_at"] < record["wall_seconds"]
    assert record["share_in_steps"] == pytest.approx(seconds["in steps"] / record["wall_seconds"])
    printed = capsys.readouterr().out
    assert f"cpu, fp32, builtin:tiny-encoder: {record['steps']} steps" in printed
    assert len(printed.splitlines()) == 2 + len(seconds)


def test_a_run_that_fails_hands_its_exit_code_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_train
    from bench_train import main

    monkeypatch.setattr(bench_train.subprocess, "run", forked)
    assert main([str(recipe), "--set", "train.epochs=0", "--json", str(tmp_path / "record.json")]) == 2
    assert not (tmp_path / "record.json").exists()


def test_a_model_of_random_weights_can_be_trained_on(tmp_path: Path) -> None:
    """With the tokenizer's own padding, whatever RoBERTa's would be."""
    from bench_models import Shapes, save_random

    from dora_cli.models import find_projections, load_model
    from dora_cli.models.source import find_source

    tokenizer = Path(find_source("builtin:tiny-encoder").location)
    save_random(tmp_path / "model", Shapes(hidden=32, layers=1, heads=2, intermediate=64, vocab=5000), tokenizer)
    loaded = load_model(str(tmp_path / "model"), num_labels=2)
    assert not [name for name in loaded.fresh if not name.startswith("classifier")]
    assert [p.shape for p in find_projections(loaded.model)] == [(32, 32)] * 4 + [(64, 32), (32, 64)]
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id
    with pytest.raises(ValueError, match=r"token ids .* 20 "):
        save_random(tmp_path / "small", Shapes(hidden=32, layers=1, heads=2, intermediate=64, vocab=20), tokenizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shapes", "roberta-base"), "--shapes and --tokenizer go together"),
        (("--shapes", "roberta-base", "--tokenizer", "nowhere"), "--tokenizer nowhere "),
        (("--json", "nowhere/at/all.json"), "nowhere/at"),
    ],
)
def test_bad_arguments(
    arguments: tuple[str, ...], message: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench_train import main

    with pytest.raises(SystemExit) as stop:
        main([str(recipe), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
