"""What trains, counted by hand."""

from __future__ import annotations

from pathlib import Path

from dora_cli.reports.html.groups import find_groups
from dora_cli.reports.html.sizes import BYTES, sizes
from tests.reports.html.folders import HEAD, write_run

PER_RANK = 2 * (4 * (768 + 768) + 2 * (768 + 3072))
"""Two blocks of BERT: four attention projections of 768 x 768, two of the FFN."""


def test_sizes(tmp_path: Path) -> None:
    run = find_groups([write_run(tmp_path / "run")])[0].runs[0]
    assert run.metrics is not None
    assert run.curves.ranks is not None
    full, lora, start, end = sizes(run.metrics, run.curves.ranks, run.environment)
    assert (full.adapter, full.trained, full.bytes) == (None, 124_647_170, 498_588_680)
    assert (lora.name, lora.adapter, lora.trained) == ("LoRA, rank 8 everywhere", 8 * PER_RANK, 8 * PER_RANK + HEAD)
    assert (start.adapter, start.trained) == (12 * PER_RANK, 12 * PER_RANK + 12 * 12 + HEAD)
    kept = sum(layer["rank"] * sum(layer["shape"]) for layer in run.curves.ranks["layers"])
    assert (end.adapter, end.trained, end.bytes) == (kept, kept + 8 * 12 + HEAD, BYTES * (kept + 8 * 12 + HEAD))
    assert [size.own for size in (full, lora, start, end)] == [False, False, False, True]


def test_a_run_of_an_older_version(tmp_path: Path) -> None:
    """It did not record the base model; the head still follows from what trained at the start."""
    run = find_groups([write_run(tmp_path / "run", parameters=None)])[0].runs[0]
    assert run.metrics is not None
    assert run.curves.ranks is not None
    full, lora, *_ = sizes(run.metrics, run.curves.ranks, run.environment)
    assert (full.trained, full.bytes) == (None, None)
    assert lora.trained == 8 * PER_RANK + HEAD


def test_a_run_without_adapters(tmp_path: Path) -> None:
    run = find_groups([write_run(tmp_path / "run")])[0].runs[0]
    assert run.metrics is not None
    assert run.curves.ranks is not None
    found = sizes(run.metrics, {**run.curves.ranks, "layers": []}, run.environment)
    assert [size.name for size in found] == ["full fine-tuning", "this run"]


def test_a_run_whose_ranks_stay_is_one_line(tmp_path: Path) -> None:
    """LoRA of its own rank is not listed beside LoRA itself, nor are ranks that it does not have."""
    run = find_groups([write_run(tmp_path / "run")])[0].runs[0]
    assert run.metrics is not None
    assert run.curves.ranks is not None
    layers = [{**layer, "start_rank": 8, "rank": 8} for layer in run.curves.ranks["layers"]]
    size = 8 * PER_RANK
    budget = {**run.metrics["budget"], "trainable_parameters_start": size + HEAD,
              "trainable_parameters_final": size + HEAD, "adapter_parameters_final": size}  # fmt: skip
    ranks = {**run.curves.ranks, "layers": layers, "start_rank": 8, "target_rank": 8}
    for record in (ranks, {**ranks, "target_rank": None}):
        found = sizes({**run.metrics, "budget": budget}, record, run.environment)
        assert [one.name for one in found] == ["full fine-tuning", "this run"]
        assert (found[1].adapter, found[1].trained, found[1].own) == (size, size + HEAD, True)


def test_a_run_that_stores_other_numbers_than_its_rank_says_stands_beside_lora_of_that_rank(
    tmp_path: Path,
) -> None:
    """Half of what LoRA of its rank stores, and a frozen part that does not train."""
    run = find_groups([write_run(tmp_path / "run")])[0].runs[0]
    assert run.metrics is not None
    assert run.curves.ranks is not None
    layers = [
        {**layer, "start_rank": 8, "rank": 8, "parameters": 4 * sum(layer["shape"])}
        for layer in run.curves.ranks["layers"]
    ]
    size = 4 * PER_RANK
    budget = {**run.metrics["budget"], "trainable_parameters_start": size - 100 + HEAD,
              "trainable_parameters_final": size - 100 + HEAD, "adapter_parameters_final": size}  # fmt: skip
    ranks = {**run.curves.ranks, "layers": layers, "start_rank": 8, "target_rank": 8}
    found = sizes({**run.metrics, "budget": budget}, ranks, run.environment)
    assert [one.name for one in found] == ["full fine-tuning", "LoRA, rank 8 everywhere", "this run"]
    assert [(one.adapter, one.trained) for one in found[1:]] == [
        (8 * PER_RANK, 8 * PER_RANK + HEAD),
        (size, size - 100 + HEAD),
    ]
