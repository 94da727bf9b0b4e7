"""One run per folder: a lock that the operating system drops when its process ends, however it ends; and whether it is
still there.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from dora_cli.errors import OutputError

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class RunLock:
    """Held while a run works in `folder`, which must exist. Raises OutputError if another process holds it.

    The folder itself is locked, so a killed run leaves nothing to clear away. Where the system cannot lock folders
    (Windows, some network disks) there is no lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle: int | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def held(self) -> bool:
        """Whether this process has the lock."""
        return self._handle is not None

    def __enter__(self) -> RunLock:
        self._identity = _identity(self.folder)
        try:
            import fcntl
        except ImportError:
            return self
        try:
            handle = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise OutputError(
                f"--output {self.folder} cannot be opened: {error.strerror or error}; choose another --output"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in _TAKEN:
                raise OutputError(
                    f"--output {self.folder} is in use by another run of dora; wait until it ends or choose another "
                    "--output"
                ) from None
            return self
        self._handle = handle
        return self

    def check_there(self) -> None:
        """Refuses to go on where the folder that was entered is gone, or another one has its name. Costs microseconds.

        Raises:
            OutputError: what it says.
        """
        if self._identity is not None and _identity(self.folder) != self._identity:
            raise OutputError(
                f"the run folder {self.folder} was removed or replaced while the run worked in it, and what it held "
                "is lost; nothing is written anew. Put the folder back from a copy and go on with --resume, or train "
                "again"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of its name; None if it is gone."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
