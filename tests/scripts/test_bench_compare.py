"""The benchmark of many short runs: where their seconds go, and that they add up."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from dora_cli.compare.workers import local
from tests.processes import CONTEXT


def test_means_of_the_parts() -> None:
    from bench_compare import PARTS, summary

    runs = [{"seconds": seconds, "parts": dict.fromkeys(PARTS, seconds / len(PARTS))} for seconds in (1.0, 2.0, 6.0)]
    found = summary(runs)
    assert found is not None
    assert (found["mean"], found["median"]) == (3.0, 2.0)
    assert sum(found[part] for part in PARTS) == pytest.approx(3.0)
    assert summary([]) is None


@pytest.mark.slow
def test_runs_and_their_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench_compare import PARTS, main

    monkeypatch.setattr(local, "LocalPool", partial(local.LocalPool, context=CONTEXT))
    target = tmp_path / "found.json"
    options = ["--runs", "3", "--steps", "8", "--task", "sst2", "--device", "cpu", "--jobs", "1"]
    options += ["--set", "data.max_train_samples=64"]
    options += ["--set", "data.max_eval_samples=32", "--output", str(tmp_path / "runs"), "--json", str(target)]
    assert main(options) == 0
    assert "3 runs of 8 steps" in capsys.readouterr().out
    record = json.loads(target.read_text())
    assert (record["runs"], record["workers"]) == (3, 1)
    assert [run["first"] for run in record["each"]] == [True, False, False]
    for run in record["each"]:
        assert sum(run["parts"][part] for part in PARTS) == pytest.approx(run["seconds"])
        assert all(seconds >= 0 for seconds in run["parts"].values())
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()) == [
        "dora-1",
        "lora-1",
        "lora-2",
    ]
    assert record["wall_seconds"] >= sum(run["seconds"] for run in record["each"])
