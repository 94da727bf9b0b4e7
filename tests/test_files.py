"""Opening, bounding and parsing what anybody may have written.

Nothing here waits: a pipe without a writer would wait for good.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from dora_cli.files import (
    DEPTH,
    NotRegularError,
    TooLargeError,
    at_home,
    check_regular,
    lines,
    open_regular,
    parse_json,
    read_bytes,
    read_text,
    real_path,
    text_lines,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def sparse(path: Path, size: int) -> Path:
    """A file of zeros that takes no place on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\xc2\x85c\n")
    assert read_bytes(path, 11) == path.read_bytes()
    assert read_text(path, 11) == "a\r\nb\x85c\n"
    assert list(lines(path)) == [b"\xef\xbb\xbfa\r\n", b"b\xc2\x85c\n"]
    assert list(text_lines(path)) == ["a\r\n", "b\x85c\n"]
    check_regular(path, 11)


@pytest.mark.parametrize("link", [False, True])
def test_what_may_never_end_is_not_opened(link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    os.mkfifo("pipe")
    places = {"pipe": "a pipe", "/dev/zero": "a device"}
    for place, what in places.items():
        path = Path(place)
        if link:
            path = Path(f"link-{path.name}")
            path.symlink_to(place)
        for refused in (open_regular, check_regular, lambda path: read_bytes(path, 10), lambda path: next(lines(path))):
            with pytest.raises(NotRegularError) as caught:
                refused(path)
            assert caught.value.strerror == f"it is {what}, not a regular file"
            assert caught.value.filename == str(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(NotRegularError, match="a socket"):
            check_regular(Path("socket"))
        with pytest.raises(OSError):  # noqa: PT011 - the system's own word for it differs
            open_regular("socket")


def test_no_such_file_and_no_such_name(tmp_path: Path) -> None:
    for refused in (lambda path: read_bytes(path, 10), check_regular):
        with pytest.raises(FileNotFoundError):
            refused(tmp_path / "nowhere")
        with pytest.raises(IsADirectoryError):
            refused(tmp_path)
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="no file can have this name") as caught:
            open_regular(name)
        assert caught.value.errno == errno.EINVAL


def test_a_bound_is_kept_and_nothing_beyond_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    for size in (6, 1 << 40):
        with pytest.raises(TooLargeError, match=f"it has {size:,} bytes, more than the 5 that are allowed"):
            read_bytes(sparse(path, size), 5)
        with pytest.raises(TooLargeError):
            check_regular(path, 5)
    if Path("/proc/self/status").exists():  # says that it has no bytes
        with pytest.raises(TooLargeError, match="more than the 5"):
            read_bytes("/proc/self/status", 5)


def test_a_line_has_a_bound_whatever_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1234\n" * 3 + b"12345")
    assert len(list(lines(path, limit=5))) == 4
    read = lines(path, limit=4)
    with pytest.raises(TooLargeError, match="line 1 has more than 4 bytes"):
        next(read)
    with pytest.raises(TooLargeError, match="line 1 has more than"):
        next(text_lines(sparse(path, 1 << 40), limit=1 << 20))


def test_json() -> None:
    deep = "[" * DEPTH + "]" * DEPTH
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_json(deep) == parse_json(deep.encode())
    flat = parse_json("[" + "[]," * 1000 + "0]")
    assert len(flat) == 1001
    assert parse_json(f'"{deep}["') == deep + "["


@pytest.mark.parametrize(
    "text",
    ["[" * (DEPTH + 1) + "]" * (DEPTH + 1),
    "[" * 100_000, '{"a":' * (DEPTH + 1) + "1" + "}" * (DEPTH + 1), "[" * 100_000 + "]" * 100_000,
     "9" * 5000, "", "{", "[1] 2", b"\xff", b'{"\xff": 1}', b"\xff\xfe\x00"],
)  # fmt: skip
def test_whatever_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"nested|digits|Expecting|Extra|decode"):
        parse_json(text)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert at_home("~/a") == Path("/home/of/mine/a")
    for name in ("~no such user/a", "~a\0b", "a/~"):
        assert at_home(name) == Path(name)
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert real_path(tmp_path / "one").parent == Path(os.path.realpath(tmp_path))
    (tmp_path / "three").symlink_to("four")
    assert real_path(tmp_path / "three") == real_path(tmp_path / "four")
