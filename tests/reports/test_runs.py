"""Which ranks a folder has, and what is said of folders that have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.atomic import write_json
from dora_cli.errors import CheckpointError
from dora_cli.reports.runs import find_ranks
from dora_cli.runs.run_folder import RunRecords
from tests.reports.examples import bert, ranks


def run(folder: Path, seed: int = 1) -> Path:
    write_json(RunRecords(folder).ranks, ranks(bert(1), seed=seed))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_ranks(folder)
    return str(caught.value)


def test_folders_without_ranks(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert refusal(absent) == (
        f"there is no folder {absent}. Name a run folder: one that dora train wrote (its --output)."
    )
    file = tmp_path / "file"
    file.touch()
    assert refusal(file) == f"{file} is a file. Name the run folder that holds it: {tmp_path}"
    assert refusal(tmp_path).startswith(f"there is no ranks.json in {tmp_path}: it is not a run folder, or the run in")
    newest = run(tmp_path / "runs" / "a")
    assert refusal(tmp_path) == (
        f"{tmp_path} is not a run folder, but holds runs. Name one of them; the newest is {newest}"
    )
    started = tmp_path / "started"
    started.mkdir()
    (started / "log.jsonl").touch()
    assert refusal(started).startswith(
        f"the run in {started} has not finished: its ranks.json is written at the end. Its budget so far: dora ranks "
    )


def test_seeds(tmp_path: Path) -> None:
    (tmp_path / "seed-1").mkdir()
    assert refusal(tmp_path) == (
        f"{tmp_path} holds seed-1, but none of them has a ranks.json yet. Wait until one has finished."
    )
    for seed in (2, 3):
        run(tmp_path / f"seed-{seed}", seed)
    found = find_ranks(tmp_path)
    assert found.title == f"{tmp_path}: mean ranks of 2 runs"
    assert found.facts == ("mean of seed-2, seed-3", "without a ranks.json yet: seed-1")
    assert find_ranks(tmp_path / "seed-2").facts == (f"one of 2 seeds; their mean ranks: dora ranks {tmp_path}",)
