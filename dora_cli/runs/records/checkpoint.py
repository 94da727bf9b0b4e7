"""What state.json and progress.json of a checkpoint hold, checked: a run folder may have been written by anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from dora_cli.runs.records.confusion import ConfusionRecord
from dora_cli.runs.records.fields import Count, Digest, Metrics, Name, Record, Seconds, validated
from dora_cli.runs.records.metrics import EpochRecord
from dora_cli.runs.records.ranks import HistoryRecord
from dora_cli.runs.records.rounds import RoundRecord


def _defined(value: Any) -> Any:
    """What an older version wrote as NaN, a metric or loss that is undefined, as it is written today: null."""
    if isinstance(value, dict):
        return {key: _defined(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


SavedMetrics = Annotated[Metrics, BeforeValidator(_defined)]
SavedEpoch = Annotated[EpochRecord, BeforeValidator(_defined)]


class StateRecord(Record):
    """state.json: where in the run the weights beside it were taken; `averaged_steps` is there where they are averaged,
    0 before the first such step.
    """

    FILE: ClassVar[str] = "state.json"

    schema_version: Literal[1]
    method: Name
    step: Count
    epoch: Count
    phase: Name
    frozen: bool
    metrics: SavedMetrics | None
    averaged_steps: Count | None = None


class PositionRecord(Record):
    """Where a run is, see `dora_cli.training.checkpoint.Position`."""

    step: Annotated[Count, Field(ge=1)]
    epoch: Annotated[Count, Field(ge=1)]
    groups: Count
    train_loss: Annotated[float | None, BeforeValidator(_defined)]  # undefined where every step was skipped


class SelectionRecord(Record):
    """The evaluation selected so far."""

    epoch: Count | None
    step: Count | None
    metrics: SavedMetrics
    frozen: bool

    @model_validator(mode="after")
    def _whole(self) -> SelectionRecord:
        if (self.epoch is None) != (self.step is None):
            raise ValueError("epoch and step must both be given or both be null")
        return self


class ScalerRecord(Record):
    """The state of fp16's loss scaling, under PyTorch's own names."""

    scale: Annotated[float, Field(gt=0)]
    growth_factor: Annotated[float, Field(gt=0)]
    backoff_factor: Annotated[float, Field(gt=0)]
    growth_interval: Annotated[float, Field(ge=1)]
    growth_tracker: Annotated[float, Field(ge=0, alias="_growth_tracker")]


class CountersRecord(Record):
    """What a step keeps beside the optimiser's moments."""

    scheduler: Count
    scaler: ScalerRecord | None
    halted: Literal[False]  # a diverged run is never saved
    bad_steps: Count
    first_bad: Annotated[int, Field(ge=-1, lt=2**53)]
    loss_sum: float
    steps: Count
    epoch_loss: float
    epoch_units: Count


class SecondsRecord(Record):
    """Time spent so far."""

    training: Seconds
    evaluation: Seconds
    saving: Seconds


class ClientStateRecord(Record):
    """Where a client of federated training is in its own examples; its counters are None before its first turn."""

    client: Annotated[Count, Field(ge=1)]
    epoch: Annotated[Count, Field(ge=1)]
    groups: Count
    counters: CountersRecord | None


class PackingRecord(Record):
    """How texts were put into rows: see `dora_cli.data.packed.Packing`."""

    step: Annotated[Count, Field(ge=1)]
    longest: Annotated[Count, Field(ge=1)]


class ProgressRecord(Record):
    """progress.json: where the run was and what it had written down."""

    FILE: ClassVar[str] = "progress.json"

    schema_version: Literal[1]
    at: PositionRecord
    step_function: CountersRecord
    selection: SelectionRecord
    epochs: list[SavedEpoch]
    history: list[HistoryRecord]
    confusion: ConfusionRecord | None = None
    seconds: SecondsRecord
    examples: Count
    last_log: Annotated[list[Seconds], Field(min_length=3, max_length=3)]  # step, examples, seconds
    log_length: Count | None
    fused: bool = False  # of older runs, and of all whose blocks are not compiled
    packing: PackingRecord | None = None  # likewise, of all whose batches are padded
    rounds: list[RoundRecord] | None = None
    clients: list[ClientStateRecord] | None = None
    recipe: str
    recipe_sha256: Digest
    versions: dict[str, str | None]


def check_state(state: Mapping[str, Any], source: Path) -> None:
    """Raises CheckpointError if `state` is not what state.json holds."""
    validated(StateRecord, state, source)


def check_progress(progress: Mapping[str, Any], source: Path) -> None:
    """Raises CheckpointError if `progress` is not what progress.json holds."""
    validated(ProgressRecord, progress, source)
