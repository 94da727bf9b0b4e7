"""Files that are whole or not there: written beside their place, flushed to the disk and renamed into it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dora_cli.errors import OutputError
from dora_cli.json_text import to_json, to_jsonl


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8 as `write_bytes` does. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, flushes it to the disk and renames it into place; makes missing folders.

    A reader, or a crash at any moment, finds the whole old file or the whole new one. Raises OutputError.
    """
    path = Path(path)
    clear_leftovers(path)
    # not a mkstemp file: that would be readable by its owner alone, and stay so after the rename
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.unlink(missing_ok=True)
            with open(beside, "xb") as file:  # never through a link that lies there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def clear_leftovers(path: Path) -> None:
    """Removes what writers of `path` that were killed have left beside it."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9]+\.tmp")
    with contextlib.suppress(OSError):  # no such folder, or it may not be read: a file may still be written there
        for name in os.listdir(path.parent):
            if left.fullmatch(name):
                (path.parent / name).unlink(missing_ok=True)


def open_to_others(files: Iterable[Path], like: Path) -> None:
    """Gives `files` the permissions of `like`: those of safetensors are readable by their owner alone."""
    mode = like.stat().st_mode
    for path in files:
        path.chmod(mode)


def write_json(path: Path, obj: Any) -> None:
    """Writes `obj` as JSON, atomically as `write_text` does. Raises OutputError."""
    write_text(path, to_json(obj))


def write_jsonl(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically as `write_text` does. Raises OutputError."""
    write_text(path, to_jsonl(objects))


def cannot_write(path: Path, error: OSError) -> OutputError:
    """What to say where the system refuses to write `path`."""
    reason = error.strerror or str(error)
    return OutputError(
        f"cannot write {path}: {reason}. Free some space, fix the permissions, or name another place with --output."
    )
