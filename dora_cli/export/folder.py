"""The folder an export is written to: made beside its place, then moved there; replaced only if it holds an export and
nothing else.

A process that is killed leaves the old export, the new one, or nothing at their place, and beside it what the next one
clears away: the folder that was being written, or (between two renames) the old export, which is put back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dora_cli.atomic import open_to_others, write_json
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.runs.lock import RunLock
from dora_cli.runs.output_files import check_no_stdout, check_place
from dora_cli.runs.reading import read_json
from dora_cli.runs.records.export import ExportRecord, UnfinishedExportRecord
from dora_cli.runs.records.fields import SCHEMA_VERSION, validated, written

RECORD = ExportRecord.FILE
"""Says what an export is and which files belong to it; written and moved last."""


def check_export_folder(output: Path, *, overwrite: bool) -> None:
    """Refuses a folder that must not or cannot be written, before anything is loaded. Writes nothing.

    Raises:
        OutputError: what it says.
    """
    check_no_stdout(output, "an export is a folder")
    if output.exists() and not output.is_dir():
        raise OutputError(f"--output {output} is a file; name a folder")
    # a killed export may have moved the earlier one aside
    there = output if output.exists() else _old(output.resolve())
    held = sorted(path.name for path in there.iterdir()) if there.is_dir() else []
    if held:
        files, whole = _files_of_export(there)
        foreign = [name for name in held if name not in files or not (there / name).is_file()]
        if RECORD not in held or foreign:
            what = (
                (f"holds {foreign[0]}, which is no part of an export")
                if RECORD in held
                else "is not empty and holds no export of dora"
            )
            raise OutputError(
                f"--output {output} {what}, so nothing is written there, not even with --overwrite; "
                "choose another --output"
            )
        if whole and not overwrite:
            raise OutputError(
                f"--output {output} holds an export already; choose another --output, or pass --overwrite to replace it"
            )
    check_place(output)


def _files_of_export(folder: Path) -> tuple[set[str], bool]:
    """The names that belong to the export in `folder`, by its record, and whether it was written to its end."""
    try:
        content = read_json(folder / RECORD)
        unfinished = isinstance(content, dict) and "unfinished" in content
        record: ExportRecord | UnfinishedExportRecord = (
            validated(UnfinishedExportRecord, content, folder / RECORD)
            if unfinished
            else validated(ExportRecord, content, folder / RECORD)
        )
    except CheckpointError:
        return set(), True
    return {*record.files, RECORD}, not unfinished


@contextmanager
def export_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which takes the place of `output` when the block ends well and vanishes when it does not.

    Raises:
        OutputError: the disk refuses, or another export to `output` is being written; what was there before is
            untouched.
    """
    place = output.resolve()
    beside = place.with_name(f".{place.name}.dora.partial")
    try:
        if beside.is_symlink():  # laid by anybody; what it leads to is not ours to empty
            beside.unlink()
        beside.mkdir(parents=True, exist_ok=True)
        with RunLock(beside):
            try:
                _clear(place, beside)
                yield beside
                check_export_folder(output, overwrite=overwrite)  # it may have been filled meanwhile
                _move(beside, place)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in its own
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"--output {output} cannot be written: {reason}; free some space or choose another --output"
        ) from error


def _old(place: Path) -> Path:
    """Where an earlier export is while the new one takes its place."""
    return place.with_name(f".{place.name}.dora.old")


def _clear(place: Path, beside: Path) -> None:
    """Clears away what an export that was killed has left: half a folder, or the earlier export beside its place."""
    for path in beside.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if place.exists():
        shutil.rmtree(_old(place), ignore_errors=True)
    elif _old(place).is_dir():
        _old(place).rename(place)


def _move(beside: Path, place: Path) -> None:
    """Puts the export in `beside` where `place` is, whole."""
    if place.is_dir():
        if os.path.samefile(place, os.curdir):  # the user stands there, and would stand in a folder that is gone
            _fill(place, beside)
            return
        shutil.copymode(place, beside)
        place.rename(_old(place))
    beside.rename(place)
    shutil.rmtree(_old(place), ignore_errors=True)


def _fill(place: Path, beside: Path) -> None:
    """Empties `place` and fills it.

    Until its record comes, last, one stands there that lets the next export do this again.
    """
    new = sorted(os.listdir(beside), key=lambda name: name == RECORD)
    known = {*os.listdir(place), *new} - {RECORD}
    unfinished = beside / f".{RECORD}"
    stand_in = {"schema_version": SCHEMA_VERSION, "unfinished": True, "files": dict.fromkeys(sorted(known))}
    write_json(unfinished, written(UnfinishedExportRecord, stand_in))
    unfinished.replace(place / RECORD)
    for name in known & {*os.listdir(place)}:
        (place / name).unlink()
    for name in new:
        (beside / name).replace(place / name)
    beside.rmdir()


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file in `folder`."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def write_record(folder: Path, record: dict[str, object]) -> None:
    """Completes an export in `folder`: its record, with its files."""
    files = sizes(folder)
    content = {"schema_version": SCHEMA_VERSION, **record, "files": files}
    write_json(folder / RECORD, written(ExportRecord, content))
    open_to_others((folder / name for name in files), folder / RECORD)
