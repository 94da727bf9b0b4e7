"""What a checkpoint holds: the trained weights, and everything else that a resumed run needs.

``optimizer.safetensors``, ``random.safetensors`` and ``progress.json`` lie beside the files of
`dora_cli.assembly.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dora_cli.assembly.weights import Weights, weights_in
from dora_cli.errors import CheckpointError
from dora_cli.runs.checkpoints import ADAPTER, HEAD, OPTIMIZER, PROGRESS, RANDOM, STATE
from dora_cli.runs.folders import read_folder, write_folder
from dora_cli.runs.records.checkpoint import ProgressRecord, check_progress
from dora_cli.runs.records.fields import written


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
        weights: what was trained.
        optimizer: moments of every parameter, ``INDEX.KEY``, in the order of the optimiser.
        random: random states of every process, see `random_state`.
        progress: where the run was and what it had written down, plain values.
    """

    weights: Weights
    optimizer: Mapping[str, torch.Tensor]
    random: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Writes a checkpoint; raises OutputError."""
        progress = written(ProgressRecord, self.progress)
        write_folder(folder, {**self.weights.parts, OPTIMIZER: self.optimizer, RANDOM: self.random, PROGRESS: progress})

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        """Reads a checkpoint; raises CheckpointError."""
        parts = read_folder(folder, (ADAPTER, HEAD, STATE, OPTIMIZER, RANDOM, PROGRESS))
        weights, progress = weights_in(folder, parts), parts[PROGRESS]
        check_progress(progress, folder / PROGRESS)
        if progress["at"]["step"] != weights.state["step"]:
            raise CheckpointError(
                f"{folder} holds weights of step {weights.state['step']:,} and the progress of step "
                f"{progress['at']['step']:,}; it is damaged, use another checkpoint of the run"
            )
        return cls(weights, parts[OPTIMIZER], parts[RANDOM], progress)
