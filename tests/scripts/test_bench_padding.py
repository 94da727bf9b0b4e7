"""The benchmark of padding: that all ways train alike. Figures are no test's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TINY = ("--size", "tiny", "--batch", "4", "--rounds", "1", "--steps", "1", "--precision", "fp32")


def record_of(folder: Path, *arguments: str) -> dict[str, Any]:
    from bench_padding import main

    assert main([*TINY, *arguments, "--json", str(folder / "record.json")]) == 0
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


def test_ways_are_timed_beside_each_other(tmp_path: Path) -> None:
    record = record_of(tmp_path, "--device", "cpu")
    ways = record["ways"]
    assert list(ways) == ["padded", "parts", "rows"]
    assert ways["padded"]["real_tokens"] < 0.8 < ways["rows"]["real_tokens"] <= 1
    assert ways["padded"]["real_tokens"] < ways["parts"]["real_tokens"]
    for one in ways.values():
        assert one["loss"] == pytest.approx(ways["padded"]["loss"], abs=1e-5)
        assert one["ms"] > 0


def test_what_there_is_not() -> None:
    from bench_padding import main

    for ways in ("guess", "rows-graph"):
        with pytest.raises(SystemExit):
            main(["--device", "cpu", "--ways", ways])


@pytest.mark.gpu
def test_captured_steps_are_timed_on_cuda(tmp_path: Path) -> None:
    record = record_of(tmp_path, "--device", "cuda", "--precision", "bf16")
    ways = record["ways"]
    assert list(ways) == ["padded-graph", "parts-graph", "rows-graph"]
    for one in ways.values():
        assert one["loss"] == pytest.approx(ways["padded-graph"]["loss"], rel=0.02)
    assert record["peak_mb"] > 0
