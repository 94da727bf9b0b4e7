"""What a process does that `dora_cli.machine.launch` has started, beside others and for the same command."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dora_cli.errors import DoraError
from dora_cli.machine.processes import is_main

REPORT = "DORA_REPORT"
"""The variable that names the file in which such a process says why it failed; without it none has been started so."""


def is_launched() -> bool:
    """Whether `dora_cli.machine.launch` has started this process."""
    return REPORT in os.environ


@contextmanager
def beside_others() -> Iterator[None]:
    """Around the work of a process that was launched; nothing where it was not.

    Stops the work as SIGTERM does when the process that launched it has ended. Writes down an error instead of raising
    it, unless a command says it in one line and this is the main process: when one process fails, the others lose
    their connection to it, and what they would print is not what happened.

    Raises:
        SystemExit: the error was written down.
    """
    if not is_launched():
        yield
        return
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    try:
        yield
    except Exception as error:
        told = isinstance(error, DoraError | OSError)
        if told and is_main():
            raise
        code = error.exit_code if isinstance(error, DoraError) else DoraError.exit_code if told else 1
        _write(code, str(error) if told else traceback.format_exc())
        raise SystemExit(code) from error


def _write(code: int, message: str) -> None:
    with suppress(OSError):  # the disk may be full: then its exit code must do
        report = {"time": time.time(), "code": code, "message": message}
        Path(os.environ[REPORT]).write_text(json.dumps(report), encoding="utf-8")


def read_report(path: Path) -> dict[str, Any] | None:
    """What a process that has ended wrote down: ``time`` in seconds since the epoch, ``code`` and ``message``; None if
    it wrote nothing.
    """
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report


def _end_with_launcher() -> None:
    """Waits for the end of standard input, whose other end the launcher holds as long as it lives."""
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
