"""Runs that an earlier version wrote load today: see stored/README.md.

Numbers are compared to some digits, not bitwise: another processor or version of PyTorch rounds otherwise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dora_cli import evaluate, load_adapter, load_recipe, predict, to_lora, train, train_seeds
from dora_cli.assembly.weights import load_weights
from dora_cli.export.saved import export_saved
from dora_cli.models.source import find_source
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.folders import read_folder
from dora_cli.runs.reading import read_lines
from dora_cli.runs.records.log import is_line
from dora_cli.runs.records.summary import seeds_summary
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import Snapshot
from tests.commands.conftest import dora

STORED = Path(__file__).parent / "stored"
FINISHED = ("finished", "generated", "seeds/seed-1", "seeds/seed-2")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(STORED, tmp_path / "stored"))


def close(values: dict[str, Any]) -> dict[str, Any]:
    """To be compared with; METEOR is None where there is no Java."""
    return {name: pytest.approx(value, rel=1e-4) for name, value in values.items() if value is not None}


@pytest.mark.parametrize("name", FINISHED)
def test_records_are_read(name: str) -> None:
    run = RunRecords(STORED / name)
    assert run.read_metrics()["budget"]["live_components"] == run.read_ranks()["live_components"]
    assert run.read_environment()["device"] == "cpu"
    assert load_recipe(run.recipe).task == run.read_metrics()["task"]
    assert all(is_line(json.loads(line)) for line in read_lines(run.log))


def test_a_summary_is_read_and_made_again_the_same() -> None:
    parent = RunRecords(STORED / "seeds")
    assert parent.read_summary() == seeds_summary([run.read_metrics() for run in parent.seed_runs()])


def test_an_interrupted_run_goes_on(stored: Path) -> None:
    run = RunRecords(stored / "interrupted")
    (folder,) = checkpoints_of(run)
    assert Snapshot.load(folder).progress["at"]["step"] == 7
    train(load_recipe(run.recipe), run.folder, resume=True)
    whole = RunRecords(STORED / "finished")
    resumed, straight = run.read_ranks(), whole.read_ranks()
    for record in (resumed, straight):
        for layer in record["layers"]:
            layer["scores"] = pytest.approx(layer["scores"], rel=1e-2, abs=1e-8)
    assert [layer["rank"] for layer in resumed["layers"]] == [layer["rank"] for layer in straight["layers"]]
    assert resumed["history"] == straight["history"]
    mine, theirs = run.read_metrics(), whole.read_metrics()
    assert mine["budget"].pop("adapter_bytes") > 0  # which the version before did not count
    for metrics in (mine["metrics"], mine["last"]):
        assert metrics.pop("loss") > 0  # which it did not measure
    assert (mine["metrics"], mine["last"], mine["budget"]) == (theirs["metrics"], theirs["last"], theirs["budget"])
    for name in ("adapter.safetensors", "head.safetensors"):
        torch.testing.assert_close(
            load_file(run.adapter / name), load_file(whole.adapter / name), rtol=1e-3, atol=1e-5, check_stride=False
        )


@pytest.mark.parametrize("name", ["finished", "generated"])
def test_a_finished_run_is_evaluated(name: str) -> None:
    recorded = RunRecords(STORED / name).read_metrics()["metrics"]
    result = evaluate(STORED / name)
    assert {key: result["metrics"][key] for key in close(recorded)} == close(recorded)
    assert result["recorded"] == recorded, "data and settings are those of the run"


def test_a_finished_run_predicts() -> None:
    assert len(predict(STORED / "finished", split="validation")) == 32
    written = [json.loads(line) for line in read_lines(RunRecords(STORED / "generated").predictions)]
    assert [record["output"] for record in predict(STORED / "generated")] == [line["output"] for line in written]


@pytest.mark.parametrize("format", ["peft", "merged"])
def test_a_finished_run_is_exported(format: str, tmp_path: Path) -> None:
    assert export_saved(STORED / "finished", tmp_path / "export", format=format).projections == 2


def test_a_saved_adapter_is_loaded_and_exported(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(find_source("builtin:tiny-decoder").location)
    method = load_adapter(STORED / "saved", model)
    assert sum(one.rank for one in method.allocation()) == 2
    again = load_file(STORED / "saved" / "adapter_model.safetensors")
    assert len(again) == 2 * len(to_lora(model))
    here = ["model.name=builtin:tiny-decoder"]
    assert export_saved(STORED / "saved", tmp_path / "export", overrides=here).projections == 2


def test_ranks_and_the_report_show_them(tmp_path: Path) -> None:
    for name in ("finished", "generated", "seeds"):
        assert dora("ranks", STORED / name).code == 0
    page = tmp_path / "page.html"
    done = dora("report", STORED / "finished", STORED / "generated", STORED / "seeds", "-o", page)
    assert done.code == 0, done.err
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in ("finished", "generated", "seed-1", "seed-2"))


def test_seeds_that_are_finished_are_kept(stored: Path) -> None:
    parent = RunRecords(stored / "seeds")
    before = parent.read_summary()
    recipe = load_recipe(parent.seed_runs()[0].recipe)
    assert train_seeds(recipe, parent.folder, (1, 2)) == before == parent.read_summary()


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in STORED.rglob("manifest.json")), ids=lambda path: path.parent.name
)
def test_manifests_hold(folder: Path) -> None:
    names = tuple(json.loads((folder / "manifest.json").read_text())["files"])
    assert set(read_folder(folder, names)) == set(names)
    assert load_weights(folder).state["method"] == "dora"


def test_they_name_no_machine() -> None:
    files = [path for path in STORED.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    assert files
    assert not [path for path in files if '"/' in path.read_text(encoding="utf-8")]
