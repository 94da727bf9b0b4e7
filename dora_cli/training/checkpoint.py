"""Folders of trained weights: written beside their place and renamed, valid only with their manifest.

A folder holds ``adapter.safetensors`` (the method's state), ``head.safetensors``, ``state.json`` (where in the run it was taken) and,
written last, ``manifest.json`` with the size and SHA-256 of the others. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dora_cli.errors import CheckpointError, OutputError
from dora_cli.training.build import AdaptedModel

ADAPTER, HEAD, STATE, MANIFEST = "adapter.safetensors", "head.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Weights:
    """A snapshot of what a run trained, on the CPU."""

    adapter: Mapping[str, torch.Tensor]
    head: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]

    @classmethod
    def of(cls, adapted: AdaptedModel, state: Mapping[str, Any]) -> Weights:
        return cls(_to_cpu(adapted.method.state_dict()), _to_cpu(dict(adapted.head)), dict(state))

    def restore(self, adapted: AdaptedModel) -> None:
        """Loads into a freshly built model; raises CheckpointError naming the first tensor that does not fit."""
        adapted.method.load_state_dict(self.adapter)
        for name in sorted(set(self.head) ^ set(adapted.head)):
            place = "is missing from the checkpoint" if name in adapted.head else "is in the checkpoint but not in this model's head"
            raise CheckpointError(f"head tensor {name} {place}; the base model or the task is not the one the run was trained with")
        for name, parameter in adapted.head.items():
            saved = self.head[name]
            if saved.shape != parameter.shape:
                raise CheckpointError(
                    f"head tensor {name} is {tuple(saved.shape)} in the checkpoint; this model needs {tuple(parameter.shape)}"
                )
            with torch.no_grad():
                parameter.copy_(saved)


def _to_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def save_weights(folder: Path, weights: Weights) -> None:
    """Writes `folder`, replacing an earlier one only when the new one is complete. Raises OutputError if the disk refuses."""
    beside = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_file(dict(weights.adapter), beside / ADAPTER)
        save_file(dict(weights.head), beside / HEAD)
        (beside / STATE).write_text(json.dumps(weights.state, indent=2) + "\n", encoding="utf-8")
        files = {name: _describe(beside / name) for name in (ADAPTER, HEAD, STATE)}
        for name in files:
            _sync(beside / name)
        (beside / MANIFEST).write_text(json.dumps({"schema_version": 1, "files": files}, indent=2) + "\n", encoding="utf-8")
        _sync(beside / MANIFEST)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's error in its own
        shutil.rmtree(beside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write checkpoint {folder}: {reason}; free some space or choose another --output") from error


def load_weights(folder: Path) -> Weights:
    """Reads a folder written by `save_weights`, checking it against its manifest. Raises CheckpointError."""
    manifest = _read_json(folder / MANIFEST, folder)
    files = manifest.get("files")
    if manifest.get("schema_version") != 1 or not isinstance(files, dict):
        raise CheckpointError(
            f"{folder / MANIFEST} is not a manifest this version understands (schema_version {manifest.get('schema_version')!r}, not 1)"
        )
    for name in (ADAPTER, HEAD, STATE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}; the checkpoint is incomplete, use another one of the run")
        if files.get(name) != _describe(folder / name):
            raise CheckpointError(
                f"{folder / name} does not match its manifest (size or SHA-256); the file is damaged, use another checkpoint of the run"
            )
    try:
        return Weights(load_file(folder / ADAPTER), load_file(folder / HEAD), _read_json(folder / STATE, folder))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: {error}; the checkpoint is damaged, use another one of the run") from error


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {path.name}; it is not a complete checkpoint of dora; name a run folder or another checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or unreadable ({error}); use another checkpoint of the run") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds {kind}, not an object; it is damaged, use another checkpoint of the run")
    return content
