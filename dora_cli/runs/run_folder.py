"""Where things are in a run folder, and the records in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.atomic import write_json
from dora_cli.runs.reading import read_json
from dora_cli.runs.records.comparison import ComparisonRecord
from dora_cli.runs.records.diverged import DivergedRecord
from dora_cli.runs.records.environment import EnvironmentRecord
from dora_cli.runs.records.fields import Record, validated, written
from dora_cli.runs.records.metrics import MetricsRecord
from dora_cli.runs.records.ranks import RanksRecord
from dora_cli.runs.records.summary import SummaryRecord


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
        """Only in the parent folder of several seeds."""
        return self.folder / "summary.json"

    @property
    def diverged(self) -> Path:
        """Only of a run of an experiment that diverged."""
        return self.folder / "diverged.json"

    @property
    def comparison(self) -> Path:
        """Only in the folder of an experiment of many runs."""
        return self.folder / "comparison.json"

    @property
    def experiment(self) -> Path:
        """The file that says what is compared; only in the folder of an experiment."""
        return self.folder / "experiment.yaml"

    def read_metrics(self) -> dict[str, Any]:
        """metrics.json, checked. Raises CheckpointError."""
        return _read(MetricsRecord, self.metrics)

    def read_ranks(self) -> dict[str, Any]:
        """ranks.json, checked. Raises CheckpointError."""
        return _read(RanksRecord, self.ranks)

    def read_environment(self) -> dict[str, Any]:
        """environment.json, checked. Raises CheckpointError."""
        return _read(EnvironmentRecord, self.environment)

    def read_summary(self) -> dict[str, Any]:
        """summary.json, checked. Raises CheckpointError."""
        return _read(SummaryRecord, self.summary)

    def read_comparison(self) -> dict[str, Any]:
        """comparison.json, checked. Raises CheckpointError."""
        return _read(ComparisonRecord, self.comparison)

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        """Writes metrics.json, checked. Raises OutputError."""
        write_json(self.metrics, written(MetricsRecord, content))

    def write_ranks(self, content: Mapping[str, Any]) -> None:
        """Writes ranks.json, checked. Raises OutputError."""
        write_json(self.ranks, written(RanksRecord, content))

    def write_environment(self, content: Mapping[str, Any]) -> None:
        """Writes environment.json, checked. Raises OutputError."""
        write_json(self.environment, written(EnvironmentRecord, content))

    def write_summary(self, content: Mapping[str, Any]) -> None:
        """Writes summary.json, checked. Raises OutputError."""
        write_json(self.summary, written(SummaryRecord, content))

    def write_diverged(self, content: Mapping[str, Any]) -> None:
        """Writes diverged.json, checked. Raises OutputError."""
        write_json(self.diverged, written(DivergedRecord, content))

    def write_comparison(self, content: Mapping[str, Any]) -> None:
        """Writes comparison.json, checked. Raises OutputError."""
        write_json(self.comparison, written(ComparisonRecord, content))

    def seed_runs(self) -> list[RunRecords]:
        """The runs of `dora train --seeds` in this folder, ``seed-*``, in order of their seeds; finished or not."""
        found = []
        for folder in self.folder.glob("seed-*"):
            if re.fullmatch(r"seed-[0-9]+", folder.name) and folder.is_dir():
                found.append((int(folder.name.removeprefix("seed-")), RunRecords(folder)))
        return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def _read(model: type[Record], path: Path) -> dict[str, Any]:
    """The content of `path` as it stands there: a key that an older version did not write stays absent."""
    content = read_json(path)
    validated(model, content, path)
    return dict(content)
