"""A run folder while the run works in it: locked, watched over, its log open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dora_cli.errors import OutputError
from dora_cli.runs.lock import RunLock
from dora_cli.runs.log import LogFile
from dora_cli.runs.place import check_there, make_output, try_saving
from dora_cli.runs.run_folder import RunRecords


class OpenRun:
    """The folder of one run. The main process alone holds it, opens its log and writes; leaving it gives it back.

    Attributes:
        records: where things are in it.
    """

    def __init__(self, folder: Path) -> None:
        self.records = RunRecords(folder)
        self._lock = RunLock(folder)
        self._log: LogFile | None = None
        self._alone = True
        self._log_error: OutputError | None = None

    @property
    def folder(self) -> Path:
        return self.records.folder

    def hold(self) -> None:
        """Locks the folder, which is there. Raises OutputError if another run works in it."""
        self._lock.__enter__()

    def make(self) -> None:
        """Makes the folder and holds it, unless it is held; raises OutputError."""
        if not self._lock.held:
            make_output(self.folder)
            self.hold()
            try_saving(self.folder)

    def check_there(self) -> None:
        """Refuses to write where the folder or what a run cannot do without was taken away. Raises OutputError."""
        check_there(self.records, self._lock)

    def open_log(self, *, length: int | None, alone: bool) -> None:
        """Opens log.jsonl for appending.

        Args:
            length: cut it back to so many bytes first.
            alone: whether no other process waits for this one: only then may a line that cannot be written end the run
                at once. Otherwise `raise_log_error` does, when all agree.
        """
        self._log = LogFile(self.records.log, length=length)
        self._alone = alone

    def write_log(self, entry: Mapping[str, Any]) -> None:
        """Appends a line, where the log is open. Raises OutputError."""
        if self._log is None:
            return
        try:
            self._lock.check_there()
            self._log.write(entry)
        except OutputError as error:
            if self._alone:
                raise
            self._log_error = error

    def raise_log_error(self) -> None:
        """Raises what a line could not be written for, if one could not."""
        if self._log_error is not None:
            raise self._log_error

    def log_length(self) -> int | None:
        """Bytes of the log, now on the disk; None where it is not open. Raises OutputError."""
        return None if self._log is None else self._log.length()

    def __enter__(self) -> OpenRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._log is not None:
                self._log.close()
        finally:
            self._lock.__exit__(kind, error, trace)
