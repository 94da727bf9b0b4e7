"""The benchmark of decoding: that every way finds outputs and they are the same. Figures are no test's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TINY = ("--sources", "6", "--beams", "3", "--tokens", "6", "--batches", "2,4", "--rounds", "1", "--precision", "fp32")


def record_of(folder: Path, *arguments: str) -> dict[str, Any]:
    from bench_decoding import main

    assert main([*TINY, *arguments, "--json", str(folder / "record.json")]) == 0
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


@pytest.mark.parametrize("model", [("--layers", "1", "--vocab", "60"), ("--model", "builtin:tiny-decoder")])
def test_ways_are_timed_beside_each_other(tmp_path: Path, model: tuple[str, ...]) -> None:
    record = record_of(tmp_path, "--device", "cpu", *model)
    assert record["settings"]["sources"] == 6
    assert [(one["way"], one["batch"]) for one in record["results"]] == [
        ("generate", 2), ("search", 2), ("generate", 4), ("search", 4),
    ]  # fmt: skip
    for one in record["results"]:
        assert one["per_second"] == pytest.approx(6 / one["seconds"], rel=0.1)
        assert one["same"] == 1.0
        assert 0 < one["mean_tokens"] <= 6


def test_meaning_representations_of_the_challenge(tmp_path: Path) -> None:
    """Each once, however many references it has."""
    rows = ["mr,ref", *(f'"name[{name}]","{name} is there."' for name in ("Aa", "Aa", "Bb", "Cc"))]
    (tmp_path / "set.csv").write_text("\n".join(rows) + "\n")
    record = record_of(
        tmp_path, "--device", "cpu", "--model", "builtin:tiny-decoder", "--csv", str(tmp_path / "set.csv")
    )
    assert record["settings"]["sources"] == 3


def test_what_there_is_not() -> None:
    from bench_decoding import main

    for ways in ("guess", "search-graph"):
        with pytest.raises(SystemExit):
            main(["--device", "cpu", "--ways", ways])


@pytest.mark.gpu
def test_captured_steps_are_timed_on_cuda(tmp_path: Path) -> None:
    record = record_of(tmp_path, "--device", "cuda", "--layers", "2", "--vocab", "600")
    results = {(one["way"], one["batch"]): one for one in record["results"]}
    assert results["search-graph", 4]["same"] >= 0.5
    assert results["search-graph", 4]["peak_mb"] > 0
