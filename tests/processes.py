"""`dora` as a process of its own, forked from one that has everything loaded: Python with torch takes seconds to start.

Its signals, exit code, streams, environment and current folder are real. What is about the start or the end of the
interpreter, or about what is imported, starts ``python -m dora_cli`` instead.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = "tests.preload"
CONTEXT.set_forkserver_preload([PRELOADED])


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code (negative for the signal that ended it) and what it wrote to stdout and
    stderr.
    """

    code: int
    out: str
    err: str


def run(*arguments: object, cwd: Path, environment: Mapping[str, str]) -> Done:
    """Runs ``dora ARGUMENTS`` to its end, without a terminal."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(*arguments, cwd=cwd, environment=environment, stdout=out.fileno(), stderr=err.fileno())
        code = end_of(process)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Done(code, *texts)


def start(
    *arguments: object,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    takes_terminal: bool = False,
    has_children: bool = False,
) -> BaseProcess:
    """Starts ``dora ARGUMENTS``; it is killed with this program at the latest, unless it has children.

    Args:
        stdin, stdout, stderr: file descriptors; None for the null device.
        takes_terminal: whether it begins a session, and stdin is the terminal that hangs it up.
        has_children: whether it starts processes itself.
    """
    null = os.open(os.devnull, os.O_RDWR)
    streams = [_Stream(null if stream is None else stream) for stream in (stdin, stdout, stderr)]
    try:
        process = CONTEXT.Process(
            target=_dora,
            args=([str(argument) for argument in arguments], str(cwd), dict(environment), streams, takes_terminal),
            daemon=not has_children,
        )
        process.start()
    finally:
        os.close(null)
    return process


def end_of(process: BaseProcess) -> int:
    """Waits for the end; returns the exit code, negative for the signal that ended it."""
    try:
        process.join(PATIENCE)
        assert process.exitcode is not None, f"still running after {PATIENCE} s"
        return process.exitcode
    finally:
        process.kill()


def send(process: BaseProcess, number: int) -> None:
    """Sends a signal."""
    assert process.pid is not None
    os.kill(process.pid, number)


class _Stream:
    """A file descriptor that is handed to a process as it starts."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __reduce__(self) -> tuple[Any, ...]:
        return _handed, (DupFd(self.handle),)


def _handed(duplicate: Any) -> _Stream:
    return _Stream(duplicate.detach())


def _dora(
    arguments: list[str], cwd: str, environment: dict[str, str], streams: Iterable[_Stream], takes_terminal: bool
) -> None:
    """The process."""
    for number, stream in enumerate(streams):
        os.dup2(stream.handle, number)
        os.close(stream.handle)
    if takes_terminal:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    begin(environment)
    os.chdir(cwd)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        file = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, line_buffering=number == 2 or os.isatty(number))
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    sys.argv = ["dora", *arguments]
    from dora_cli.__main__ import main

    try:
        main(arguments)
    finally:
        for name in ("stdout", "stderr"):
            try:
                getattr(sys, name).flush()
            except OSError:  # nobody reads any more; the process that forks would say so
                setattr(sys, name, None)


def begin(environment: Mapping[str, str]) -> None:
    """Gives a process that was just forked the signals of a new one, and `environment`."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)
