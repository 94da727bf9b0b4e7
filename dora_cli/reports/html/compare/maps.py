"""Rank maps of an experiment: of each method whose ranks differ, the first finished run that measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.files import real_path
from dora_cli.reports.compare.results import Cell, Results
from dora_cli.reports.html.rank_map import Picture, pictures
from dora_cli.runs.records.comparison import ComparedTaskRecord, MeasuredRunRecord
from dora_cli.runs.run_folder import RunRecords


@dataclass(frozen=True)
class Maps:
    """The maps of one task, and what is said of the methods whose ranks are the same everywhere: they need none."""

    pictures: Sequence[Picture]
    uniform: Sequence[str]


def rank_maps_of(results: Results, task: ComparedTaskRecord, folder: Path) -> Maps:
    """The maps of `task`; `folder` is the experiment's. Raises CheckpointError where a record is damaged."""
    found: list[Picture] = []
    uniform = []
    for method in results.methods:
        first = first_with_ranks(results.cell(task, method), folder)
        if first is None:
            continue
        run, record = first
        ranks = {layer["rank"] for layer in record["layers"]}
        if len(ranks) == 1:
            uniform.append(f"{method.name}: rank {min(ranks)} everywhere")
            continue
        found += pictures(record, f"{method.name}, seed {run.seed}")
    return Maps(found, uniform)


def first_with_ranks(cell: Cell, folder: Path) -> tuple[MeasuredRunRecord, Mapping[str, Any]] | None:
    """The first finished run whose ranks.json is there and has ranks, with that record."""
    for run in cell.runs:
        place = run_folder(folder, run.folder)
        if run.outcome == "finished" and place is not None and RunRecords(place).ranks.is_file():
            record = RunRecords(place).read_ranks()
            return (run, record) if record["layers"] else None
    return None


def run_folder(folder: Path, run: str | None) -> Path | None:
    """Where a run of the experiment in `folder` lies; None where that is nowhere or outside of it."""
    if run is None:
        return None
    place = real_path(folder / run)
    return place if real_path(folder) in place.parents else None
