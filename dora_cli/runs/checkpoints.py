"""The checkpoints of a run: which there are, and the files in one."""

from __future__ import annotations

import re
from pathlib import Path

from dora_cli.runs.run_folder import RunRecords

ADAPTER, HEAD, STATE = "adapter.safetensors", "head.safetensors", "state.json"
"""Weights: the method's, the head's, and where in the run they were taken."""
OPTIMIZER, RANDOM, PROGRESS = "optimizer.safetensors", "random.safetensors", "progress.json"
"""What only a resumed run needs beside them."""
METHOD = "method.safetensors"
"""The same of a method that keeps more than its weights and its optimiser's state."""
TRAINING = "training.safetensors"
"""The weights that training goes on from, where the others are a mean over steps."""

_STEP = re.compile(r"step-([0-9]+)")


def step_of(folder: Path) -> int | None:
    """The step in the name of a checkpoint's folder; None if it has another name."""
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else None


def checkpoints_of(records: RunRecords) -> list[Path]:
    """The folders of a run's checkpoints, oldest first by their steps: clocks are not trusted."""
    folder = records.checkpoints
    found = [
        (step, path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (step := step_of(path)) is not None and path.is_dir()
    ]
    return [path for _, path in sorted(found)]
