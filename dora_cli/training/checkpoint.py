"""What a checkpoint holds: the trained weights, and everything else that a resumed run needs; and the one a run goes on
from.

``optimizer.safetensors``, ``random.safetensors`` and ``progress.json`` lie beside the files of
`dora_cli.assembly.weights`, ``method.safetensors`` where the method keeps more than these, and where weights are
averaged ``training.safetensors``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch

from dora_cli.assembly.length import RunLength
from dora_cli.assembly.weights import Weights, weights_in
from dora_cli.data.packed import Packing
from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Schedule, events_of
from dora_cli.runs.checkpoints import (
    ADAPTER,
    HEAD,
    METHOD,
    OPTIMIZER,
    PROGRESS,
    RANDOM,
    STATE,
    TRAINING,
    checkpoints_of,
    step_of,
)
from dora_cli.runs.folders import read_folder, recover, write_folder
from dora_cli.runs.records.checkpoint import ProgressRecord, check_progress
from dora_cli.runs.records.fields import written
from dora_cli.runs.run_folder import RunRecords

METHOD_STATE = "method"
"""The name of the state of the method's own generator, beside those of the processes."""


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: optimiser steps done.
        epoch: the epoch that goes on, counted from 1; one more than the last where all are done.
        groups: steps of it done.
        train_loss: once its last step is done and its evaluation is not: its mean training loss, not a
            number where every step was skipped.
    """

    step: int = 0
    epoch: int = 1
    groups: int = 0
    train_loss: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: what a resumed run starts from.

    Attributes:
        weights: what was trained; their mean, once weights are averaged.
        optimizer: moments of every parameter, ``INDEX.KEY``, in the order of the optimiser.
        random: random states of every process, see `random_state`, and of the method's generator.
        progress: where the run was and what it had written down, plain values.
        method: its `training_state`.
        training: the weights that training goes on from, where `weights` are a mean, see `Averaging`.
    """

    weights: Weights
    optimizer: Mapping[str, torch.Tensor]
    random: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]
    method: Mapping[str, torch.Tensor] = field(default_factory=dict)
    training: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes a checkpoint; raises OutputError."""
        progress = written(ProgressRecord, self.progress)
        parts = {**self.weights.parts, OPTIMIZER: self.optimizer, RANDOM: self.random, PROGRESS: progress}
        more = {name: tensors for name, tensors in ((METHOD, self.method), (TRAINING, self.training)) if tensors}
        write_folder(folder, {**parts, **more})

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        """Reads a checkpoint; raises CheckpointError."""
        parts = read_folder(folder, (ADAPTER, HEAD, STATE, OPTIMIZER, RANDOM, PROGRESS), optional=(METHOD, TRAINING))
        weights, progress = weights_in(folder, parts), parts[PROGRESS]
        check_progress(progress, folder / PROGRESS)
        if progress["at"]["step"] != weights.state["step"]:
            raise CheckpointError(
                f"{folder} holds weights of step {weights.state['step']:,} and the progress of step "
                f"{progress['at']['step']:,}; it is damaged, use another checkpoint of the run"
            )
        more = (parts.get(name, {}) for name in (METHOD, TRAINING))
        return cls(weights, parts[OPTIMIZER], parts[RANDOM], progress, *more)

    @property
    def fused(self) -> bool:
        """Whether the run had its blocks compiled."""
        return bool(self.progress.get("fused", False))

    @property
    def packing(self) -> Packing | None:
        """How the run put texts into rows; None where its batches were padded."""
        found = self.progress.get("packing")
        return None if found is None else Packing(**found)

    @property
    def log_length(self) -> int | None:
        """How many bytes log.jsonl had."""
        length: int | None = self.progress["log_length"]
        return length

    def restore_generator(self, generator: torch.Generator) -> None:
        """Brings the method's generator to its state at this moment; older runs do not hold it, nor draw from it again.

        Raises:
            CheckpointError: what is stored is no such state.
        """
        state = self.random.get(METHOD_STATE)
        if state is None:
            return
        try:
            generator.set_state(state)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{RANDOM} of the checkpoint holds no state of a generator for the method; it is damaged, use another "
                "checkpoint of the run"
            ) from error

    def random_of(self, rank: int) -> dict[str, torch.Tensor]:
        """The random states of the process with this index."""
        prefix = f"{rank}."
        return {name.removeprefix(prefix): state for name, state in self.random.items() if name.startswith(prefix)}


# Going on -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The checkpoint a run goes on from, and what was wrong with the newer ones."""

    folder: Path
    snapshot: Snapshot
    skipped: list[str] = field(default_factory=list)


def newest_checkpoint(records: RunRecords) -> Found:
    """The newest checkpoint that is whole. Raises CheckpointError if there is none."""
    if records.checkpoints.is_dir():
        for path in records.checkpoints.iterdir():
            if path.name.startswith(".step-") and path.name.endswith(".old"):
                recover(path.with_name(path.name[1 : -len(".old")]))
    skipped: list[str] = []
    for folder in reversed(checkpoints_of(records)):
        try:
            snapshot = Snapshot.load(folder)
            if snapshot.progress["at"]["step"] != step_of(folder):
                raise CheckpointError(f"it holds the progress of step {snapshot.progress['at']['step']:,}")
            return Found(folder, snapshot, skipped)
        except CheckpointError as error:
            skipped.append(f"{folder.name} is not used: {error}")
    raise _nothing_saved(records, skipped)


def _nothing_saved(records: RunRecords, skipped: Sequence[str] = ()) -> CheckpointError:
    reasons = "".join(f"\n{reason}" for reason in skipped)
    return CheckpointError(
        f"{records.folder} has no checkpoint that a run can go on from; start it again with --overwrite or another "
        f"--output{reasons}"
    )


def position_in(progress: Mapping[str, Any], length: RunLength) -> Position:
    """Where the run was, from progress.json that `check_fits` has let through.

    JSON has no NaN: at the end of an epoch the loss is null where every step of it was skipped.
    """
    at = Position(**progress["at"])
    if at.train_loss is None and at.epoch <= length.epochs and at.groups == length.steps_in(at.epoch):
        at.train_loss = math.nan
    return at


def pruning_events(history: Sequence[Mapping[str, Any]], schedule: Schedule) -> list[Mapping[str, Any]]:
    """`history` without the events of older runs at which nothing is pruned: to the schedule these are none."""
    return [
        entry
        for entry in history
        if entry["budget"] < schedule.start_components or schedule.next_event(entry["step"] - 1) == entry["step"]
    ]


def check_fits(
    progress: Mapping[str, Any],
    *,
    length: RunLength,
    schedule: Schedule,
    frozen: bool,
    metric: str,
    every: Literal["epoch", "end"],
) -> None:
    """Refuses a checkpoint whose numbers cannot be those of this run.

    Args:
        progress: as `check_progress` lets through.
        frozen: whether the ranks of the weights beside it are final.
        metric: what selects an epoch.
        every: ``eval.every``.

    Raises:
        CheckpointError: names the first number that cannot be.
    """
    record = ProgressRecord.model_validate(progress)
    at, selection = record.at, record.selection
    done = at.epoch - 1  # epochs that are trained, and evaluated where their turn is
    steps = [
        min(epoch * length.steps_per_epoch, length.total_steps) for epoch in range(1, min(done, length.epochs) + 1)
    ]
    within = length.steps_in(at.epoch) if at.epoch <= length.epochs else 0
    expected = list(enumerate(steps, start=1))
    if every == "end":
        expected = expected[length.epochs - 1 :]
    evaluated = {entry.epoch: entry.step for entry in record.epochs}
    events = list(takewhile(lambda event: event <= at.step, events_of(schedule)))
    checks = (
        ("at.epoch", at.epoch <= length.epochs + 1),
        ("at.groups", at.groups <= within),
        ("at.step", at.step == (steps[-1] if steps else 0) + at.groups),
        ("at.train_loss", at.train_loss is None or 0 < at.groups == within),  # None: also that of steps all skipped
        ("step_function.scheduler", record.step_function.scheduler == at.step),
        ("step_function.first_bad", record.step_function.first_bad <= at.step),
        ("epochs", [(entry.epoch, entry.step) for entry in record.epochs] == expected),
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
