"""Where commands may write: one rule for all of them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.runs.output_files import check_no_stdout, check_output_file, is_stdout, write_output


def test_a_new_file_is_written_and_an_old_one_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    check_output_file(path, overwrite=False)
    write_output(path, "one\n")
    with pytest.raises(OutputError, match="exists already; choose another name, or pass --overwrite"):
        check_output_file(path, overwrite=False)
    check_output_file(path, overwrite=True)
    write_output(path, b"two\n")
    assert path.read_text() == "two\n"


def test_a_link_is_a_file_that_is_there_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        check_output_file(tmp_path / "link", overwrite=False)


@pytest.mark.parametrize("name", ["a.pdf", "a"])
def test_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"name a file that ends in \.html or \.htm, such as r\.html"):
        check_output_file(tmp_path / name, overwrite=False, example="r.html", endings=(".html", ".htm"))
    check_output_file(tmp_path / "a.HTM", overwrite=False, endings=(".html", ".htm"))


@pytest.mark.parametrize("name", ["recipe.yaml", "adapter/x.json", "checkpoints/step-1/manifest.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_records_of_a_run_are_not_replaced(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(OutputError, match="a record of the run itself"):
        check_output_file(tmp_path / name, overwrite=overwrite)
    check_output_file(tmp_path / "mine.json", overwrite=overwrite)


def test_stdout(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for name in ("-", "/dev/stdout"):
        assert is_stdout(name)
        check_output_file(Path(name), overwrite=False)
        with pytest.raises(OutputError, match=r"is stdout, but this is none; name one"):
            check_no_stdout(name, "this is none")
    assert not is_stdout("./-")
    assert not is_stdout(None)
    write_output(Path("-"), "caf\u00e9 \x1b[31m\n")
    assert capsysbinary.readouterr().out == "caf\u00e9 \x1b[31m\n".encode(), (
        "a file or program gets what was asked for, byte for byte"
    )


def test_a_device_is_written_to_and_stays() -> None:
    path = Path(os.devnull)
    check_output_file(path, overwrite=False)
    write_output(path, "text")
    assert path.is_char_device()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    check_output_file(pipe, overwrite=False)
    write_output(pipe, "text")
    reader.join(10)
    assert (got, pipe.is_fifo()) == ([b"text"], True)
