"""The run folder: whether it may be written, and the moment it is taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dora_cli.errors import OutputError
from dora_cli.reports.records import RunRecords


def default_output(recipe_path: Path) -> Path:
    """``runs/glue-sst2`` for ``configs/glue/sst2.yaml``: one place per recipe."""
    parent = recipe_path.resolve().parent.name
    return Path("runs") / (recipe_path.stem if parent in ("", "configs") else f"{parent}-{recipe_path.stem}")


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not or cannot be written, before anything is loaded. Writes nothing."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            finished = "a finished run" if RunRecords(output).metrics.exists() else "something"
            raise OutputError(
                f"--output {output} holds {finished} already; choose another --output, or pass --overwrite to replace the run in it"
            )
        if not is_run(output):
            raise OutputError(
                f"--output {output} is not empty and holds no run of dora, so --overwrite does not touch it; choose another --output"
            )
    parent = output
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"--output {output} cannot be written: no permission in {parent}; choose another --output")


def is_run(folder: Path) -> bool:
    """Whether `folder` looks like a run folder, or like the parent of runs over several seeds."""
    return RunRecords(folder).recipe.is_file() or any(RunRecords(child).recipe.is_file() for child in folder.glob("seed-*"))


def take_output(output: Path, *, overwrite: bool) -> None:
    """Makes the folder, after removing the run that `overwrite` allows to replace."""
    try:
        if overwrite and output.is_dir() and is_run(output):
            shutil.rmtree(output)
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {output} cannot be written: {error.strerror or error}; choose another --output") from error
