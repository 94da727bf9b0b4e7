"""The folder an export is written to: made beside its place, then moved there; replaced only if it holds an export and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dora_cli.errors import CheckpointError, OutputError
from dora_cli.reports.outputs import check_no_stdout, check_place
from dora_cli.reports.records import read_json, write_json

RECORD = "dora_export.json"
"""Says what an export is and which files belong to it; written and moved last."""


def check_export_folder(output: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not or cannot be written, before anything is loaded. Writes nothing.

    Raises:
        OutputError: what it says.
    """
    check_no_stdout(output, "an export is a folder")
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output {output} is a file; name a folder")
    held = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if held:
        files = _files_of_export(output)
        foreign = [name for name in held if name not in files or not (output / name).is_file()]
        if RECORD not in held or foreign:
            what = f"holds {foreign[0]}, which is no part of an export" if RECORD in held else "is not empty and holds no export of dora"
            raise OutputError(f"--output {output} {what}, so nothing is written there, not even with --overwrite; choose another --output")
        if not overwrite:
            raise OutputError(f"--output {output} holds an export already; choose another --output, or pass --overwrite to replace it")
    check_place(output)


def _files_of_export(output: Path) -> set[str]:
    try:
        files = read_json(output / RECORD).get("files")
    except (CheckpointError, AttributeError):
        return set()
    return {str(name) for name in files} | {RECORD} if isinstance(files, dict) else set()


@contextmanager
def export_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which takes the place of `output` when the block ends well and vanishes when it does not.

    Raises:
        OutputError: the disk refuses; what was there before is untouched.
    """
    place = output.resolve()
    beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        check_export_folder(output, overwrite=overwrite)  # it may have been filled meanwhile
        if place.is_dir():
            # Emptied and filled, not replaced: it may be where the user stands, or a link. Its record goes first and comes last.
            for name in sorted(os.listdir(place), key=lambda name: name != RECORD):
                (place / name).unlink()
            for name in sorted(os.listdir(beside), key=lambda name: name == RECORD):
                (beside / name).rename(place / name)
        else:
            beside.rename(place)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in its own
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"--output {output} cannot be written: {reason}; free some space or choose another --output") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file in `folder`."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def write_record(folder: Path, record: dict[str, object]) -> None:
    """Completes an export in `folder`: its record, with its files."""
    files = sizes(folder)
    write_json(folder / RECORD, {"schema_version": 1, **record, "files": files})
    mode = (folder / RECORD).stat().st_mode
    for name in files:
        (folder / name).chmod(mode)  # safetensors files are readable by their owner alone, and exports are for others
