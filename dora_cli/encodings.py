"""What a text file is, if it is not UTF-8, and how to make it UTF-8."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

HEAD = 4096
"""Bytes at a file's beginning that tell what it is."""
_AROUND = 20
"""Characters shown on either side of the first byte that is not UTF-8."""

_WIDE = (
    # UTF-32's mark begins as UTF-16's does.
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a zip archive, as Excel's workbooks are; save the table as csv in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel; save the table as csv in UTF-8"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"PAR1", "a parquet file; give its name the ending .parquet"),
)
_LATIN1 = "Latin-1"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Misfit:
    """Why a file is not read as UTF-8.

    Attributes:
        line: the first line that is not UTF-8, from 1; None if it is the whole file.
        reason: what it is and what to do, as it follows the file's name.
    """

    line: int | None
    reason: str


def wide_encoding(head: bytes) -> str | None:
    """The encoding of two or four bytes a character that a file is in, told by its first bytes.

    Without a byte-order mark it is told by ASCII text, in which every other byte is 0. Such a file is valid UTF-8, full
    of NUL characters.
    """
    for mark, name in _WIDE:
        if head.startswith(mark):
            return name
    if head.startswith(tuple(beginning for beginning, _ in _NO_TEXT)):  # zeros may be anywhere in these
        return None
    high, low = head[0:HEAD:2], head[1:HEAD:2]
    for zeros, others, name in ((low, high, "UTF-16LE"), (high, low, "UTF-16BE")):
        if zeros and zeros.count(0) > 0.4 * len(zeros) and 0 not in others:
            return name
    return None


def wide_misfit(name: str, head: bytes) -> Misfit | None:
    """What to say of a file that begins with `head` if that is UTF-16 or UTF-32; None if it is neither."""
    encoding = wide_encoding(head)
    return None if encoding is None else Misfit(None, f"is {encoding}, not UTF-8; {_convert(name, encoding)}")


def find_misfit(name: str, lines: Iterable[bytes]) -> Misfit | None:
    """What keeps a file from being UTF-8; None if it is.

    Args:
        name: of the file, for what to type.
        lines: of the file, with their line feeds.
    """
    bad: tuple[int, bytes, int] | None = None
    head, elsewhere, binary = b"", False, False
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            head = raw[:HEAD]
            if wide := wide_misfit(name, head):
                return wide
        binary = binary or _CONTROL.search(raw) is not None
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = bad or (number, raw, error.start)
        else:
            elsewhere = elsewhere or not raw.isascii()
    if bad is None:
        return None
    number, raw, start = bad
    for beginning, what in _NO_TEXT:
        if head.startswith(beginning):
            return Misfit(None, f"is no text but {what}")
    if elsewhere:  # no other encoding is valid UTF-8 by chance
        return Misfit(number, f"not UTF-8 (byte {raw[start]:#04x}), unlike other lines of the file; fix the line")
    encoding = None if binary else _narrow_encoding(raw)
    if encoding is None:
        return Misfit(
            number,
            f"not UTF-8 (byte {raw[start]:#04x}), nor text in Latin-1; convert the file from the encoding it is in",
        )
    text = raw.decode(encoding).rstrip("\r\n")[max(0, start - _AROUND) : start + _AROUND]
    return Misfit(
        number,
        f"not UTF-8; it fits {encoding}, which reads {text!r} there: if that is right, {_convert(name, encoding)}",
    )


def _narrow_encoding(raw: bytes) -> str | None:
    """The encoding of Western Europe that bytes fit: Latin-1, or Windows-1252 if some are no characters
    in the former.
    """
    if all(byte < 0x80 or byte >= 0xA0 for byte in raw):
        return _LATIN1
    try:
        raw.decode("windows-1252")
    except UnicodeDecodeError:
        return None
    return "Windows-1252"


def _convert(name: str, encoding: str) -> str:
    new = f"new{PurePath(name).suffix}"
    called = "LATIN1" if encoding == _LATIN1 else encoding
    return f"convert the file, such as with: iconv -f {called} -t UTF-8 {shlex.quote(name)} > {new}"
