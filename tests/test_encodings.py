"""What a file is that is not UTF-8: each is written by Python's own codecs, and what is said of it is done and gives
the text back.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from dora_cli.encodings import Misfit, find_misfit, wide_encoding

TEXT = "sentence,label\nun café noir,1\nnaïveté,0\n"


def misfit(content: bytes) -> Misfit | None:
    return find_misfit("train.csv", content.splitlines(keepends=True))


def test_utf8_is_what_it_should_be() -> None:
    for text in (TEXT, "", "plain", "one\0two\0three", "日本語", "\ufeffmarked"):
        assert misfit(text.encode()) is None


@pytest.mark.parametrize(
    ("codec", "named", "line"),
    [
        ("latin-1", "fits Latin-1, which reads 'un café noir,1' there", 2),
        ("cp1252", "fits Windows-1252, which reads '“un café”' there", 1),
        ("utf-16", "is UTF-16, not UTF-8", None),
        ("utf-16-le", "is UTF-16LE, not UTF-8", None),
        ("utf-16-be", "is UTF-16BE, not UTF-8", None),
        ("utf-32", "is UTF-32, not UTF-8", None),
    ],
)
def test_the_encoding_is_named_and_the_command_converts_it(
    codec: str, named: str, line: int | None, tmp_path: Path
) -> None:
    text = "“un café”\n" if codec == "cp1252" else TEXT
    found = misfit(text.encode(codec))
    assert found is not None
    assert (found.line, named in found.reason) == (line, True)
    command = re.search("with: (.*) > new.csv$", found.reason)
    assert command is not None
    if shutil.which("iconv"):
        (tmp_path / "train.csv").write_bytes(text.encode(codec))
        done = subprocess.run(command[1].split(), cwd=tmp_path, capture_output=True, check=True)
        assert done.stdout.decode("utf-8-sig") == text


def test_a_mark_decides_before_what_follows_it() -> None:
    assert wide_encoding("ж".encode("utf-16")) == "UTF-16"
    assert wide_encoding(b"") is None
    assert wide_encoding(b"a") is None


def test_utf8_with_one_damaged_byte_is_no_other_encoding() -> None:
    found = misfit(TEXT.encode() + b"ol\xe9,1\n")
    assert found == Misfit(4, "not UTF-8 (byte 0xe9), unlike other lines of the file; fix the line")


def test_bytes_that_are_no_text_fit_no_encoding(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as book:
        book.writestr("sheet.xml", b"\xff" * 100)
    for content, says in (
        ((tmp_path / "book.xlsx").read_bytes(), "is no text but a zip archive"),
        (gzip.compress(TEXT.encode(), mtime=0), "is no text but compressed by gzip; unpack it"),
        # its time is a line feed and zeros, as UTF-16 has them
        (gzip.compress(TEXT.encode(), mtime=10), "is no text but compressed by gzip; unpack it"),
        (b"PAR1\xff\x00", "is no text but a parquet file"),
        (b"\x89PNG\r\n\x1a\n\xff", "not UTF-8 (byte 0x89), nor text in Latin-1"),
        (b"a\x81b", "not UTF-8 (byte 0x81), nor text in Latin-1"),
    ):
        found = misfit(content)
        assert found is not None
        assert found.reason.startswith(says)
