"""The demonstration of federated training, cut short, by every command that reads a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from tests.commands.conftest import CONFIGS, dora
from tests.training.test_run import lines, read

RECIPE = CONFIGS / "demo" / "federated.yaml"
SHORT = [
    argument
    for change in (
        "data.max_train_samples=64", "data.max_eval_samples=16", "federated.clients=3", "federated.rounds=2",
        "federated.local_steps=2", "federated.split=dirichlet", "federated.alpha=1", "federated.participation=0.67",
        "method.rank=2", "train.batch_size=8", "train.log_every=1", "train.device=cpu",
    )
    for argument in ("--set", change)
]  # fmt: skip


class Run(NamedTuple):
    folder: Path
    said: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("federated") / "run"
    done = dora("train", RECIPE, *SHORT, "--output", folder, "--plain")
    assert done.code == 0, done.err
    return Run(folder, done.out + done.err)


def test_a_training_says_its_rounds(run: Run) -> None:
    assert len(re.findall(r"^round [12]/2 step [24] ", run.said, re.MULTILINE)) == 2
    assert [line["type"] for line in lines(run.folder / "log.jsonl")] == ["train", "train", "eval", "round"] * 2
    metrics = read(run.folder / "metrics.json")
    assert sum(client["examples"] for client in metrics["clients"]) == 64
    assert [record["step"] for record in metrics["rounds"]] == [2, 4]


def test_a_finished_run_is_left_as_it_is(run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    done = dora("train", RECIPE, *SHORT, "--output", run.folder, "--resume")
    assert (done.code, before) == (0, {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")})
    refused = dora("train", RECIPE, *SHORT, "--set", "federated.clients=4", "--output", run.folder, "--resume")
    assert refused.code == 2
    assert "federated.clients" in refused.err


def test_a_dry_run_says_who_trains_how_long(tmp_path: Path) -> None:
    done = dora("train", RECIPE, *SHORT, "--output", tmp_path / "run", "--dry-run")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert re.search(r"clients 3, dirichlet, alpha 1, .* 2 are drawn for a round", said)
    assert "rounds 2 of 2 local steps" in said
    assert not (tmp_path / "run").exists()


def test_the_result_is_a_run_like_any_other(run: Run, tmp_path: Path) -> None:
    evaluated = dora("eval", "--checkpoint", run.folder)
    assert evaluated.code == 0, evaluated.err
    assert "identical" in evaluated.out
    ranks = dora("ranks", run.folder, "--json")
    assert ranks.code == 0, ranks.err
    page = dora("report", run.folder, "--output", tmp_path / "page.html")
    assert page.code == 0, page.err
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(said in html for said in ("lora-fair", "Rounds", "left out"))


def test_the_result_is_exported_as_the_factors_that_the_server_made(run: Run, tmp_path: Path) -> None:
    done = dora("export", "--checkpoint", run.folder, "--format", "peft", "--output", tmp_path / "peft")
    assert done.code == 0, done.err
    own = load_file(run.folder / "adapter" / "adapter.safetensors")
    exported = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    for name in (name.removesuffix(".A") for name in own if name.endswith(".A")):
        A, B = (exported[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
        difference = 4.0 * own[f"{name}.B"] @ own[f"{name}.A"] - scale(tmp_path / "peft") * B @ A
        assert float(difference.abs().max()) < 1e-6
    assert "federated" in (tmp_path / "peft" / "README.md").read_text()


def scale(folder: Path) -> float:
    config = read(folder / "adapter_config.json")
    return float(config["lora_alpha"] / config["r"])
