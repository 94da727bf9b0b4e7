"""Standard error that may go away while a run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class LastingStderr:
    """`sys.stderr`, whatever that is at the time; once it takes nothing any more, what is written is dropped.

    A pipe loses its reader (``dora train ... 2>&1 | head``), a terminal is closed: neither may cost the hours that were
    trained.
    """

    def __init__(self) -> None:
        self._gone = False

    @property
    def rich_proxied_file(self) -> LastingStderr:
        """Where a console writes: here, and not to what stands behind it."""
        return self

    @property
    def _file(self) -> Any:
        # While the live view stands, `sys.stderr` puts what others write above it, by the console that writes here.
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Writes `text` if anybody can still read it."""
        self._try(lambda: self._file.write(text))
        return len(text)

    def flush(self) -> None:
        """Passes on what is buffered; drops it where nobody reads any more."""
        self._try(self._file.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            action()
        except OSError:
            self._gone = True
