"""log.jsonl, as it is written and read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import read_log
from dora_cli.runs.log import LogFile


def line(step: int, **more: object) -> dict[str, object]:
    return {"type": "train", "step": step, "phase": "final", "budget": 2, "live": 2, **more}


def test_log_lines_are_there_before_the_file_is_closed(tmp_path: Path):
    path = tmp_path / "run" / "log.jsonl"
    with LogFile(path) as log:
        log.write(line(1, loss=np.float64(0.5)))
        log.write(line(2, loss=math.nan))
        assert [json.loads(text) for text in path.read_text().splitlines()] == [line(1, loss=0.5), line(2, loss=None)]
    with LogFile(path) as log:
        log.write(line(3))
    assert len(path.read_text().splitlines()) == 3


def test_a_log_cut_off_within_a_line_goes_on_with_a_line_of_its_own(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st')
    with LogFile(path) as log:
        log.write(line(2))
    assert path.read_text() == f'{{"step": 1}}\n{{"st\n{json.dumps(line(2))}\n'


@pytest.mark.parametrize("kept", [0, 12])
def test_a_log_that_is_cut_back_goes_on_there(tmp_path: Path, kept: int):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with LogFile(path, length=kept) as log:
        assert log.length() == kept
        log.write(line(3))
        assert log.length() == path.stat().st_size == kept + len(json.dumps(line(3))) + 1
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'[:kept] + json.dumps(line(3)) + "\n"


def test_a_log_of_one_endless_line_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("wb") as file:
        file.truncate(1 << 26)
    with pytest.raises(CheckpointError, match=r"line 1 .*bytes"):
        read_log(tmp_path / "log.jsonl")


def test_lines_of_a_log_that_are_no_json_are_passed_over(tmp_path: Path) -> None:
    entry = '{"type": "eval", "step": 1, "epoch": 1, "phase": "warmup", "metrics": {}, "note": "a\u2028b"}'
    (tmp_path / "log.jsonl").write_text(f"{'[' * 100_000}\n{'9' * 5000}\n{entry}\n{entry[:-1]}", encoding="utf-8")
    assert read_log(tmp_path / "log.jsonl") == [json.loads(entry)]
