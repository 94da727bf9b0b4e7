"""Where files are kept, and whether they can be."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dora_cli.hub import data_cache


def look_at_caches() -> list[dict[str, Any]]:
    """``name, path, needed, exists, free_bytes, problem`` of every folder.

    Those that are not needed only keep what the hub sends.
    """
    found = [
        _look_at("models (HF_HUB_CACHE)", _hub_cache()),
        _look_at("data sets (HF_DATASETS_CACHE)", _datasets_cache()),
    ]
    found.append(_look_at("current folder", Path.cwd()))
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        found.append(
            _row(
                "temporary files (TMPDIR)",
                None,
                needed=True,
                problem=f"{error.strerror}; set TMPDIR to a writable folder",
            )
        )
    else:
        found.append(_look_at("temporary files (TMPDIR)", temporary, needed=True))
    return found


def _hub_cache() -> Path | None:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except Exception:  # said among the packages
        return None
    return Path(HF_HUB_CACHE)


def _datasets_cache() -> Path | None:
    try:
        return data_cache()
    except Exception:
        return None


def _look_at(name: str, path: Path | None, *, needed: bool = False) -> dict[str, Any]:
    if path is None:
        return _row(name, None, needed=needed, problem="is not known: the package that says so cannot be loaded")
    return _row(name, path, needed=needed, problem=_unwritable(path))


def _row(name: str, path: Path | None, *, needed: bool, problem: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "path": str(path) if path is not None else None,
        "needed": needed,
        "exists": path is not None and path.is_dir(),
        "free_bytes": _free(path) if path is not None else None,
        "problem": problem,
    }


def _unwritable(path: Path) -> str | None:
    """Why nothing can be written to a folder, which may yet have to be made; None if something can."""
    place = _nearest(path)
    if not place.is_dir():
        return f"cannot be made: {place} is a file"
    try:
        if place == path:
            with tempfile.TemporaryFile(dir=place):
                pass
        elif not os.access(place, os.W_OK | os.X_OK):
            return f"cannot be made: no permission in {place}"
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    return None


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(_nearest(path)).free
    except OSError:
        return None


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
