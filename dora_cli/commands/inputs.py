"""Examples that come through a pipe: ``-``, ``/dev/stdin`` and the ``/dev/fd/63`` of a shell's ``<(...)``."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from dora_cli.errors import DataError, DoraError, OptionError

STDIN = "-"
_ALIASES = (STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_HANDLE = re.compile(r"/(?:dev|proc/self)/fd/[0-9]+")
LIMIT = 1 << 28
"""Bytes: a stream has no size of its own, and some have no end."""


def is_stdin(path: Path | None) -> bool:
    """Whether `path` stands for stdin."""
    return path is not None and str(path) in _ALIASES


def name_of(path: Path) -> str:
    """What messages call it."""
    return "standard input" if is_stdin(path) else str(path)


@contextmanager
def readable(path: Path | None, option: str) -> Iterator[Path | None]:
    """A file to read `path` from: itself, or, of a stream, a copy of all it has to say, which is removed afterwards.

    The copy's name says what it holds: JSON lines if the first character is a brace, else plain text. Messages name the
    stream.

    Args:
        path: as the user gave it; None stays None.
        option: by which it was given.

    Raises:
        DataError: the stream cannot be read, or is longer than `LIMIT`.
        OptionError: several processes would have to read it.
    """
    if path is None or not (is_stdin(path) or _HANDLE.fullmatch(str(path))):
        yield path
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError(f"{option} {path} is a stream, which only one of several processes could read; give a file")
    name = name_of(path)
    with tempfile.TemporaryDirectory(prefix="dora-input-") as folder:
        copy = _copied(path, Path(folder), name)
        try:
            yield copy
        except DoraError as error:
            if str(copy) not in str(error):
                raise
            raise type(error)(str(error).replace(str(copy), name)) from error


def _copied(path: Path, folder: Path, name: str) -> Path:
    """All of the stream as a file in `folder`."""
    copy = folder / "stream"
    try:
        with ExitStack() as stack, copy.open("w+b") as file:
            stream = _opened(path, stack)
            while block := stream.read(1 << 20):
                if file.tell() + len(block) > LIMIT:
                    raise DataError(f"{name}: has more than {LIMIT:,} bytes; write it to a file and name that")
                file.write(block)
            file.seek(0)
            start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}; check what is written to it") from None
    return copy.rename(copy.with_suffix(".jsonl" if start.startswith(b"{") else ".txt"))


def _opened(path: Path, stack: ExitStack) -> BinaryIO:
    if not is_stdin(path):
        return stack.enter_context(path.open("rb"))
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("standard input: is closed; write the examples to it, or name a file")
    return sys.stdin.buffer
