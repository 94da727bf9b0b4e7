"""Where things are in a run folder, and the records in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.runs.reading import read_json
from dora_cli.runs.records.metrics import validate_metrics
from dora_cli.runs.records.ranks import validate_ranks


@dataclass(frozen=True)
class RunRecords:
    """Where things are in a run folder, and the records in it.

    metrics.json is to be written last: a folder that holds one holds a finished run.
    """

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def ranks(self) -> Path:
        return self.folder / "ranks.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def predictions(self) -> Path:
        """What the finished model wrote; only of a task that generates."""
        return self.folder / "predictions.jsonl"

    @property
    def trackers(self) -> Path:
        """What trackers keep as files; only where the recipe asks for one."""
        return self.folder / "trackers"

    @property
    def summary(self) -> Path:
        """Of the parent folder of several seeds."""
        return self.folder / "summary.json"

    def read_metrics(self) -> dict[str, Any]:
        """metrics.json, checked. Raises CheckpointError."""
        record = read_json(self.metrics)
        validate_metrics(record, self.metrics)
        return dict(record)

    def read_ranks(self) -> dict[str, Any]:
        """ranks.json, checked. Raises CheckpointError."""
        record = read_json(self.ranks)
        validate_ranks(record, self.ranks)
        return dict(record)

    def seed_runs(self) -> list[RunRecords]:
        """The runs of `dora train --seeds` in this folder, ``seed-*``, in order of their seeds; finished or not."""
        found = []
        for folder in self.folder.glob("seed-*"):
            if re.fullmatch(r"seed-[0-9]+", folder.name) and folder.is_dir():
                found.append((int(folder.name.removeprefix("seed-")), RunRecords(folder)))
        return [run for _, run in sorted(found, key=lambda pair: pair[0])]
