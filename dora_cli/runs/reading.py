"""Reading what is in a run folder: what goes wrong is a CheckpointError that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dora_cli.errors import CheckpointError
from dora_cli.files import LOG, RECORD, NotRegularError, TooLargeError, check_regular, lines, parse_json, read_bytes

COPY_AGAIN = "Copy the run folder again if it was copied, or train again."


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises CheckpointError if it is absent, unreadable or cut off."""
    return parse_record(read_text(path), path)


def read_text(path: Path, limit: int = RECORD) -> str:
    """The content of a UTF-8 text file of at most `limit` bytes. Raises CheckpointError."""
    path = Path(path)
    with _readable(path):
        return read_bytes(path, limit).decode("utf-8")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a log, one by one. Raises CheckpointError."""
    path = Path(path)
    with _readable(path):
        check_regular(path, LOG)
        for line in lines(path):
            yield line.decode("utf-8")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while `path` is read into a CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no {path.name} in {path.parent}: it is not a run folder, or the run in it has not finished. "
            "Name the folder that dora train wrote (its --output)."
        ) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: byte {error.start} is not UTF-8 text. {COPY_AGAIN}") from error
    except (NotRegularError, TooLargeError, IsADirectoryError) as error:
        reason = error.strerror or ""
        raise CheckpointError(
            f"{path} is no record of dora: {reason[:1].lower() + reason[1:]}. {COPY_AGAIN}"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}. Fix its permissions or name another run folder."
        ) from error


def parse_record(text: str, path: Path) -> Any:
    """`text` as JSON; `path` is where it came from. Raises CheckpointError."""
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        where = "it is empty" if not text.strip() else f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CheckpointError(f"{path} is damaged: {where}. {COPY_AGAIN}") from error
    except ValueError as error:  # a number of thousands of digits, or lists within lists without end
        raise CheckpointError(f"{path} is damaged: {error}. {COPY_AGAIN}") from error
