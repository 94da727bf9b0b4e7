"""Folders that are whole or not there: written beside their place, with a manifest last, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from dora_cli.atomic import open_to_others
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.files import RECORD, open_regular, parse_json, read_bytes
from dora_cli.printable import shown
from dora_cli.runs.records.fields import SCHEMA_VERSION, validated, written
from dora_cli.runs.records.manifest import FileRecord, ManifestRecord

if TYPE_CHECKING:
    import torch

MANIFEST = ManifestRecord.FILE
LEFTOVERS = (".partial", ".old")
"""How names of folders end that a killed writer has left."""
TENSORS = ".safetensors"

Part = Mapping[str, Any]
"""Content of one file: tensors by name (``.safetensors``), or what JSON holds (``.json``)."""


def write_folder(folder: Path, parts: Mapping[str, Part], *, then: str | None = None) -> None:
    """Writes `parts` as files of `folder`, replacing an earlier folder only when the new one is complete and on the
    disk.

    A reader, or a crash at any moment, finds the whole old folder, the whole new one, or (between two renames) the old
    one under the name that `recover` knows.

    Args:
        folder: where.
        parts: content by file name.
        then: what can be done once the disk takes it; None where a run writes a checkpoint.

    Raises:
        OutputError: the disk refuses; what was there before is untouched.
    """
    beside, old = _beside(folder), _old(folder)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, part in parts.items():
            if name.endswith(TENSORS):
                _write_tensors(beside / name, part)
            else:
                (beside / name).write_text(json.dumps(part, indent=1) + "\n", encoding="utf-8")
        files = {name: _describe(beside / name) for name in parts}
        for name in files:
            _sync(beside / name)
        manifest = written(ManifestRecord, {"schema_version": SCHEMA_VERSION, "files": files})
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        open_to_others((beside / name for name in files), beside / MANIFEST)
        _sync(beside / MANIFEST)
        _sync(beside)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in its own
        shutil.rmtree(beside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        if then is not None:
            raise OutputError(
                f"cannot write {folder}: {reason}; what was there is whole. Free some space, then {then}"
            ) from error
        before, then = "the last one that was written is whole", "go on with --resume"
        if not any(folder.parent.rglob(f"step-*/{MANIFEST}")):
            before, then = "none was written before", "train again with --overwrite"
        raise OutputError(
            f"cannot write checkpoint {folder}: {reason}; {before}. Free some space or fix the folder's permissions, "
            f"then {then}"
        ) from error


def recover(folder: Path) -> None:
    """Puts the earlier `folder` back if a crash fell between the two renames of `write_folder`."""
    if not folder.exists() and _old(folder).is_dir():
        with contextlib.suppress(OSError):
            _old(folder).rename(folder)


def remove_folder(folder: Path) -> None:
    """Removes a folder and what an interrupted writing of it has left."""
    for path in (folder, _beside(folder), _old(folder)):
        shutil.rmtree(path, ignore_errors=True)


def read_folder(folder: Path, names: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> dict[str, Part]:
    """The content of the files `names`, and of those of `optional` that the manifest lists, each checked against the
    manifest before it is parsed.

    Names come from the caller alone: whatever a manifest lists, no other path is opened.

    Raises:
        CheckpointError: a file is missing, damaged or not what it should be.
    """
    manifest = validated(ManifestRecord, _read_json(folder / MANIFEST, folder), folder / MANIFEST)
    parts: dict[str, Part] = {}
    for name in (*names, *(name for name in optional if name in manifest.files)):
        path = folder / name
        if name not in manifest.files or not path.is_file():
            raise CheckpointError(f"{folder} lacks {name}; the checkpoint is incomplete, use another one of the run")
        try:
            fits = _fits(path, manifest.files[name])
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror or error}); use another checkpoint of the run"
            ) from error
        if not fits:
            raise CheckpointError(
                f"{path} does not match its manifest (size or SHA-256); the file is damaged, use another checkpoint "
                "of the run"
            )
        parts[name] = _read_tensors(path) if name.endswith(TENSORS) else _read_json(path, folder)
    return parts


def _write_tensors(path: Path, part: Part) -> None:
    from safetensors.torch import save_file  # loads PyTorch, for which a look at a place need not wait

    save_file({key: tensor.detach().to("cpu").contiguous() for key, tensor in part.items()}, path)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except MemoryError:
        raise
    # A header by a stranger can name shapes, types and offsets that fail anywhere below.
    except Exception as error:
        raise CheckpointError(
            f"{path} is no readable safetensors file ({shown(str(error))}); use another checkpoint of the run"
        ) from error


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _describe(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest.hexdigest()}


def _fits(path: Path, described: FileRecord) -> bool:
    """Whether a file is as the manifest describes it; its size first, which costs nothing."""
    return described.bytes == path.stat().st_size and described.model_dump() == _describe(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bytes(path, RECORD))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {path.name}; it is not a complete checkpoint of dora; name a run folder or another "
            "checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CheckpointError(
            f"{path} is damaged or unreadable ({shown(reason)}); use another checkpoint of the run"
        ) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds {kind}, not an object; it is damaged, use another checkpoint of the run")
    return content
