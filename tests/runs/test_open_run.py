"""A run folder while the run works in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.runs.open_run import OpenRun

LINE = {"type": "eval", "epoch": 1, "step": 4, "phase": "final", "train_loss": 0.5, "metrics": {"accuracy": 0.75}}


def test_it_is_held_until_it_is_left(tmp_path: Path) -> None:
    with OpenRun(tmp_path / "run") as place, OpenRun(tmp_path / "run") as other:
        place.make()
        with pytest.raises(OutputError):
            other.hold()
    with OpenRun(tmp_path / "run") as place:
        place.hold()


def test_without_an_open_log_nothing_is_written(tmp_path: Path) -> None:
    with OpenRun(tmp_path) as place:
        place.write_log(LINE)
        assert place.log_length() is None
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_cannot_be_written_ends_a_run_of_one_process(tmp_path: Path) -> None:
    with OpenRun(tmp_path / "run") as place:
        place.make()
        place.open_log(length=None, alone=True)
        place.write_log(LINE)
        assert place.log_length() == len(place.records.log.read_bytes()) > 0
        place.records.log.unlink()
        with pytest.raises(OutputError):
            place.write_log(LINE)
        place.raise_log_error()


def test_several_processes_hear_of_it_when_they_agree(tmp_path: Path) -> None:
    with OpenRun(tmp_path / "run") as place:
        place.make()
        place.open_log(length=None, alone=False)
        place.raise_log_error()
        place.records.log.unlink()
        place.write_log(LINE)
        with pytest.raises(OutputError):
            place.raise_log_error()
