"""Files that may come from anybody: opened without waiting, read within bounds, parsed without surprises.

What goes wrong is an `OSError` whose `strerror` fits behind "X: cannot be read:", or a `ValueError` for content; the
caller, who knows what the file is for, makes the user's message of it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

RECORD = 1 << 25
"""Bytes of a JSON record: no run or export writes a longer one."""
LOG = 1 << 28
"""Bytes of log.jsonl: more than a million lines."""
LINE = 1 << 24
"""Bytes of one line of a data file or log; a longer one is no text to train on."""
WHOLE = 1 << 30
"""Bytes of a text or JSON file that is read at once because it cannot be read in parts."""
DEPTH = 100
"""Levels of lists and objects in JSON: whatever walks through it afterwards can be recursive."""

_PLAIN = os.O_RDONLY
# nobody waits for the other end of a pipe; not every system has all
for _name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _PLAIN |= getattr(os, _name, 0)


class NotRegularError(OSError):
    """Something else than a file has its place: a pipe or a device, which might never end."""


class TooLargeError(OSError):
    """A file or a line is longer than what it should hold."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading.

    What is opened is what was checked: nobody can put a pipe there in between.

    Raises:
        NotRegularError: it is a pipe, device or socket.
        OSError: the system refuses, or no file can have such a name.
    """
    try:
        file = open(path, "rb", opener=lambda name, _: os.open(name, _PLAIN))  # noqa: SIM115 - the caller closes it
    except ValueError as error:  # a NUL or half a surrogate pair in the name
        raise OSError(errno.EINVAL, f"no file can have this name ({error})", os.fspath(path)) from None
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode):
        file.close()
        raise not_regular(path, mode)
    return file


def not_regular(path: str | os.PathLike[str], mode: int) -> NotRegularError:
    """The error for what has the file type of `mode`."""
    what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return NotRegularError(errno.EINVAL, f"it is {what}, not a regular file", os.fspath(path))


def too_large(path: str | os.PathLike[str], size: int, limit: int) -> TooLargeError:
    """The error for a file of `size` bytes in a place for `limit`."""
    return TooLargeError(
        errno.EFBIG, f"it has {size:,} bytes, more than the {limit:,} that are allowed", os.fspath(path)
    )


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        TooLargeError: it is longer; nothing of it is read then.
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:  # some files, such as those of /proc, do not say how long they are
        raise too_large(path, max(size, len(content)), limit)
    return content


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """What `read_bytes` gives, decoded from UTF-8 with or without a byte-order mark. Raises UnicodeDecodeError too."""
    return read_bytes(path, limit).decode("utf-8-sig")


def lines(path: str | os.PathLike[str], *, limit: int = LINE) -> Iterator[bytes]:
    """The lines of a regular file with their ends; only a line feed ends one.

    Raises:
        TooLargeError: a line has more than `limit` bytes; names it.
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        number = 0
        while line := file.readline(limit + 1):
            number += 1
            if len(line) > limit:
                raise TooLargeError(errno.EFBIG, f"line {number:,} has more than {limit:,} bytes", os.fspath(path))
            yield line


def text_lines(path: str | os.PathLike[str], *, limit: int = LINE) -> Iterator[str]:
    """The lines of `lines`, decoded from UTF-8, without a byte-order mark. Raises UnicodeDecodeError too."""
    encoding = "utf-8-sig"
    for line in lines(path, limit=limit):
        yield line.decode(encoding)
        encoding = "utf-8"


def check_regular(path: Path, limit: int | None = None) -> None:
    """For a file that a library opens by its name: raises what `open_regular` and `read_bytes` would; no file is an
    OSError too.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise not_regular(path, status.st_mode)
    if limit is not None and status.st_size > limit:
        raise too_large(path, status.st_size, limit)


def real_path(path: Path) -> Path:
    """Where `path` leads, absolute; of a ring of links, one of them (for `Path.resolve` some versions of Python raise
    RuntimeError).
    """
    return Path(os.path.realpath(path))


def at_home(path: str | os.PathLike[str]) -> Path:
    """`path` with ``~`` and ``~name`` as a shell reads them: left as they are where there is no such user."""
    try:
        return Path(os.path.expanduser(path))
    except ValueError:  # a NUL in the name
        return Path(path)


def parse_json(text: str | bytes) -> Any:
    """What JSON holds. Raises ValueError for anything that is none, or is nested more than `DEPTH` levels deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} levels deep") from None
    opening = (text.count("[") + text.count("{")) if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opening > DEPTH:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raises ValueError where lists and objects are nested more than `DEPTH` levels deep."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        inner: list[Any] = []
        for one in level:
            inner.extend(
                child for child in (one.values() if isinstance(one, dict) else one) if isinstance(child, dict | list)
            )
        level = inner
        if not level:
            return
    raise ValueError(f"nested more than {DEPTH} levels deep")
