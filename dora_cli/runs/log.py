"""log.jsonl: what a run says of itself while it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dora_cli.atomic import cannot_write
from dora_cli.errors import OutputError
from dora_cli.files import open_regular
from dora_cli.json_text import to_line
from dora_cli.runs.records.log import written_line


class LogFile:
    """log.jsonl: one JSON object per line, on the disk's way as soon as it is written, so that a killed run keeps its
    log.

    Opened for appending. If an earlier run died within a line, the next line still starts on its own.

    Args:
        path: the file.
        length: cut it back to so many bytes first: what a resumed run writes again must not stand there twice.
    """

    def __init__(self, path: Path, *, length: int | None = None) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
            if length is not None and length < self._file.tell():
                self._file.truncate(length)
                self._file.seek(0, os.SEEK_END)  # truncating leaves the position where it was, beyond the end
            if self._file.tell() and _last_byte(self.path) != b"\n":
                self._file.write(b"\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def write(self, entry: Mapping[str, Any]) -> None:
        """Appends one line, checked against the schema of its type, and flushes it.

        Raises OutputError, also where the file was removed meanwhile: nobody would read that line.
        """
        self._check_there()
        try:
            self._file.write(to_line(written_line(entry)).encode("utf-8"))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def length(self) -> int:
        """Bytes written so far, now on the disk. Raises OutputError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _check_there(self) -> None:
        try:
            there = os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            there = False
        if not there:
            raise OutputError(
                f"{self.path} was removed or replaced while the run wrote it; put it back from a copy and go on with "
                "--resume, or train again"
            )

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> LogFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _last_byte(path: Path) -> bytes:
    with open_regular(path) as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
