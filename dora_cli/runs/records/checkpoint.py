"""What state.json and progress.json of a checkpoint hold, checked: a run folder may have been written by anybody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dora_cli.runs.records.fields import Count, Metrics, Name, validated
from dora_cli.runs.records.metrics import EpochRecord
from dora_cli.runs.records.ranks import HistoryRecord

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class Closed(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class StateRecord(Closed):
    """state.json: where in the run the weights beside it were taken."""

    schema_version: Literal[1]
    method: Name
    step: Count
    epoch: Count
    phase: Name
    frozen: bool
    metrics: Metrics | None


class PositionRecord(Closed):
    """Where a run is, see `dora_cli.training.checkpoint.Position`."""

    step: Annotated[Count, Field(ge=1)]
    epoch: Annotated[Count, Field(ge=1)]
    groups: Count
    train_loss: float | None  # not a number where every step of the epoch was skipped


class SelectionRecord(Closed):
    """The evaluation selected so far."""

    epoch: Count | None
    step: Count | None
    metrics: Metrics
    frozen: bool

    @model_validator(mode="after")
    def _whole(self) -> SelectionRecord:
        if (self.epoch is None) != (self.step is None):
            raise ValueError("epoch and step must both be given or both be null")
        return self


class ScalerRecord(Closed):
    """Of fp16's loss scaling; PyTorch's own names."""

    scale: Annotated[Finite, Field(gt=0)]
    growth_factor: Annotated[Finite, Field(gt=0)]
    backoff_factor: Annotated[Finite, Field(gt=0)]
    growth_interval: Annotated[Finite, Field(ge=1)]
    growth_tracker: Annotated[Finite, Field(ge=0, alias="_growth_tracker")]


class CountersRecord(Closed):
    """What a step keeps beside the optimiser's moments."""

    scheduler: Count
    scaler: ScalerRecord | None
    halted: Literal[False]  # a diverged run is never saved
    bad_steps: Count
    first_bad: Annotated[int, Field(ge=-1, lt=2**53)]
    loss_sum: Finite
    steps: Count
    epoch_loss: Finite
    epoch_units: Count


class SecondsRecord(Closed):
    """Time spent so far."""

    training: Seconds
    evaluation: Seconds
    saving: Seconds


class ProgressRecord(Closed):
    """progress.json: where the run was and what it had written down."""

    schema_version: Literal[1]
    at: PositionRecord
    step_function: CountersRecord
    selection: SelectionRecord
    epochs: list[EpochRecord]
    history: list[HistoryRecord]
    seconds: SecondsRecord
    examples: Count
    last_log: Annotated[list[Seconds], Field(min_length=3, max_length=3)]  # step, examples, seconds
    log_length: Count | None
    recipe: str
    recipe_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    versions: dict[str, str | None]


def check_state(state: Mapping[str, Any], source: Path) -> None:
    """Raises CheckpointError if `state` is not what state.json holds."""
    validated(StateRecord, state, source)


def check_progress(progress: Mapping[str, Any], source: Path) -> None:
    """Raises CheckpointError if `progress` is not what progress.json holds."""
    validated(ProgressRecord, progress, source)
