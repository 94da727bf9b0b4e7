"""What state.json and progress.json of a checkpoint hold, checked: a run folder may have been written by anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dora_cli.assembly.length import RunLength
from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Schedule
from dora_cli.runs.layout import Count, EpochRecord, HistoryRecord, Metrics, Name
from dora_cli.runs.records import validated

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class StateRecord(_Record):
    """state.json: where in the run the weights beside it were taken."""

    schema_version: Literal[1]
    method: Name
    step: Count
    epoch: Count
    phase: Name
    frozen: bool
    metrics: Metrics | None


class PositionRecord(_Record):
    """The fields of `dora_cli.runs.resume.Position`."""

    step: Annotated[Count, Field(ge=1)]
    epoch: Annotated[Count, Field(ge=1)]
    groups: Count
    train_loss: float | None  # not a number where every step of the epoch was skipped


class SelectionRecord(_Record):
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


class ScalerRecord(_Record):
    """State of fp16's loss scaling, by PyTorch's own names."""

    scale: Annotated[Finite, Field(gt=0)]
    growth_factor: Annotated[Finite, Field(gt=0)]
    backoff_factor: Annotated[Finite, Field(gt=0)]
    growth_interval: Annotated[Finite, Field(ge=1)]
    growth_tracker: Annotated[Finite, Field(ge=0, alias="_growth_tracker")]


class CountersRecord(_Record):
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


class SecondsRecord(_Record):
    """Time spent so far."""

    training: Seconds
    evaluation: Seconds
    saving: Seconds


class ProgressRecord(_Record):
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


def pruning_events(history: Sequence[Mapping[str, Any]], schedule: Schedule) -> list[Mapping[str, Any]]:
    """`history` without the events of older runs at which nothing is pruned: to the schedule these are none."""
    return [
        entry
        for entry in history
        if entry["budget"] < schedule.start_components or entry["step"] == schedule.freeze_step
    ]


def check_fits(
    progress: Mapping[str, Any], *, length: RunLength, schedule: Schedule, frozen: bool, metric: str
) -> None:
    """Refuses a checkpoint whose numbers cannot be those of this run.

    Args:
        progress: as `check_progress` lets through.
        frozen: whether the ranks of the weights beside it are final.
        metric: what selects an epoch.

    Raises:
        CheckpointError: names the first number that cannot be.
    """
    record = ProgressRecord.model_validate(progress)
    at, selection = record.at, record.selection
    done = at.epoch - 1  # epochs that are trained and evaluated
    steps = [
        min(epoch * length.steps_per_epoch, length.total_steps) for epoch in range(1, min(done, length.epochs) + 1)
    ]
    within = length.steps_in(at.epoch) if at.epoch <= length.epochs else 0
    evaluated = {entry.epoch: entry.step for entry in record.epochs}
    events, event = [], schedule.next_event(0)
    while event is not None and event <= at.step:
        events.append(event)
        event = schedule.next_event(event)
    checks = (
        ("at.epoch", at.epoch <= length.epochs + 1),
        ("at.groups", at.groups <= within),
        ("at.step", at.step == (steps[-1] if steps else 0) + at.groups),
        ("at.train_loss", (at.train_loss is not None) == (0 < at.groups == within)),
        ("step_function.scheduler", record.step_function.scheduler == at.step),
        ("step_function.first_bad", record.step_function.first_bad <= at.step),
        ("epochs", [(entry.epoch, entry.step) for entry in record.epochs] == list(enumerate(steps, start=1))),
        ("epochs", all(metric in entry.metrics for entry in record.epochs)),
        (
            "selection",
            selection.epoch is None
            or (evaluated.get(selection.epoch) == selection.step and metric in selection.metrics),
        ),
        ("history", [entry["step"] for entry in pruning_events(progress["history"], schedule)] == events),
        ("last_log", record.last_log[0] <= at.step),
    )
    for key, holds in checks:
        if not holds:
            raise CheckpointError(
                f"progress.json of the checkpoint is damaged: its {key} cannot be that of this run of "
                f"{length.total_steps:,} steps in {length.epochs:,} epochs at step {at.step:,}; use another "
                "checkpoint of the run"
            )
    if frozen != (at.step >= schedule.freeze_step):
        raise CheckpointError(
            f"the checkpoint's ranks are {'final' if frozen else 'not final'} at step {at.step:,}, but this run "
            f"freezes them at step {schedule.freeze_step:,}; it is damaged, use another checkpoint of the run"
        )
