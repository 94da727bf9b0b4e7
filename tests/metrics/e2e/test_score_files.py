from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dora_cli.errors import DataError
from dora_cli.metrics.e2e.score_files import read_pairs


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> Path:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Path(name)


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        ("a\nb\n\nc\n", [["a", "b"], ["c"]]),
        ("a\nb\n\nc", [["a", "b"], ["c"]]),
        ("a\nb\n\nc\n\n\n", [["a", "b"], ["c"]]),  # blank lines at the end begin no block
        (" a \r\nb\r\n\r\nc\r\n", [["a", "b"], ["c"]]),
        ("a\nb\n \t\nc\n", [["a", "b"], ["c"]]),
        ("\ufeffa\nb\n\ncafé £\n", [["a", "b"], ["café £"]]),
        ("a\nc\n", [["a"], ["c"]]),  # no blank line: one reference each
    ],
)
def test_blocks(references: str, expected: list[list[str]]) -> None:
    assert read_pairs(write("out.txt", "x\ny z\n"), write("ref.txt", references)) == (["x", "y z"], expected)


def test_one_output_takes_one_block() -> None:
    assert read_pairs(write("out.txt", "x"), write("ref.txt", "a\nb\n")) == (["x"], [["a", "b"]])


def test_a_blank_line_is_an_empty_output() -> None:
    outputs, _ = read_pairs(write("out.txt", "\nx\n\n"), write("ref.txt", "a\n\nb\n\nc\n"))
    assert outputs == ["", "x", ""]


def test_blank_lines_alone_are_empty_outputs() -> None:
    assert read_pairs(write("out.txt", "\n\n"), write("ref.txt", "a\n\nb\n")) == (["", ""], [["a"], ["b"]])
    assert read_pairs(write("out.txt", "\n"), write("ref.txt", "a\n")) == ([""], [["a"]])


def test_line_separators_of_other_kinds_stay_in_their_line() -> None:
    outputs, references = read_pairs(write("out.txt", "x\u2028y\x0bz\n"), write("ref.txt", "a\u0085b\n"))
    assert (outputs, references) == (["x\u2028y\x0bz"], [["a\u0085b"]])


RECORDS = jsonl(
    {"mr": "name[X]", "output": " x ", "references": ["a", "b"]}, {"mr": "", "output": "", "references": ["é"]}
)


def test_json_lines() -> None:
    path = write("predictions.jsonl", RECORDS + "\n")
    assert read_pairs(path, None) == (["x", ""], [["a", "b"], ["é"]])
    assert read_pairs(path, write("ref.txt", "1\n\n2\n")) == (["x", ""], [["1"], ["2"]])
    assert read_pairs(write("out.txt", "1\n2"), path) == (["1", "2"], [["a", "b"], ["é"]])


def test_json_lines_without_references_can_take_them_from_a_file() -> None:
    path = write("predictions.jsonl", jsonl({"output": "x"}))
    assert read_pairs(path, write("ref.txt", "a\n")) == (["x"], [["a"]])


GOOD = "a\n\nb\n"


@pytest.mark.parametrize(
    ("name", "content", "references", "says"),
    [
        ("out.txt", "x\n", GOOD, "out.txt has 1 output but ref.txt has references for 2; they must match one to one"),
        ("out.txt", "x\ny\n\n", GOOD, "out.txt has 3 outputs but ref.txt has references for 2"),
        ("out.txt", "x\ny\nz\n", "a\nb\n", "out.txt has 3 outputs but ref.txt has references for 2"),
        ("out.jsonl", RECORDS, "a\n\nb\n\nc\n", "out.jsonl has 2 outputs but ref.txt has references for 3"),
        ("out.txt", "", GOOD, "out.txt: the file is empty; give plain text"),
        (
            "out.txt",
            "x\ny\n",
            " \n\n",
            "ref.txt: holds blank lines alone; give a block of at least one reference for each output",
        ),
        ("out.jsonl", "\n", GOOD, "out.jsonl: the file is empty; give an object a line"),
        ("out.txt", "x\ny\n", "\na\n\nb\n", "ref.txt, line 1: an empty block of references"),
        ("out.txt", "x\ny\n", "a\n\n\nb\n", "ref.txt, line 3: an empty block of references"),
        ("out.txt", b"x\ncaf\xe9\n", GOOD, "out.txt, line 2: not UTF-8"),
        ("out.txt", "x\ny\n", b"a\n\n\xa320\n", "ref.txt, line 3: not UTF-8"),
        ("out.txt", "x\ny\n".encode("utf-16"), GOOD, "out.txt: is UTF-16, not UTF-8"),
        ("out.jsonl", b'{"output": "\xe9"}', GOOD, "out.jsonl, line 1: not UTF-8"),
        ("out.csv", "mr,ref\n", GOOD, "out.csv: a table"),
        ("out.jsonl", '{"output": "x"}\n{"output"', GOOD, "out.jsonl, line 2: not JSON"),
        ("out.jsonl", '"x"\n', GOOD, 'out.jsonl, line 1: "x" is no object such as'),
        ("out.jsonl", jsonl({"prediction": "x"}), GOOD, "out.jsonl, line 1: 'output' is missing; it must be a text"),
        ("out.jsonl", jsonl({"output": None}), GOOD, "out.jsonl, line 1: 'output' holds null; it must be a text"),
        ("out.jsonl", '{"output": "\\ud83d"}', GOOD, "out.jsonl, line 1: 'output' holds half of a surrogate pair"),
        ("out.txt", "x\n", None, "out.txt holds outputs alone; give --references FILE"),
        (
            "out.jsonl",
            jsonl({"output": "x"}),
            None,
            "out.jsonl, line 1: 'references' is missing; it must be a list of at least one text",
        ),
        (
            "out.jsonl",
            jsonl({"output": "x", "references": []}),
            None,
            "'references' is []; it must be a list of at least one text",
        ),
        (
            "out.jsonl",
            jsonl({"output": "x", "references": "ab"}),
            None,
            "'references' is \"ab\"; it must be a list of at least one text",
        ),
        (
            "out.jsonl",
            jsonl({"output": "x", "references": ["a", 3]}),
            None,
            "line 1: 'references' holds 3; it must be a text",
        ),
    ],
)
def test_errors(name: str, content: str | bytes, references: str | bytes | None, says: str) -> None:
    predictions = write(name, content)
    with pytest.raises(DataError) as error:
        read_pairs(predictions, None if references is None else write("ref.txt", references))
    assert says in str(error.value)


def test_files_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"^out\.txt: there is no such file$"):
        read_pairs(Path("out.txt"), Path("ref.txt"))
    with pytest.raises(DataError, match=r"^ref\.txt: there is no such file$"):
        read_pairs(write("out.txt", "x"), Path("ref.txt"))
    Path("folder").mkdir()
    with pytest.raises(DataError, match=r"^folder: is a folder; give a file$"):
        read_pairs(Path("folder"), Path("ref.txt"))


@pytest.mark.parametrize("name", ["out.txt", "out.jsonl"])
def test_what_never_ends_is_not_read(name: str) -> None:
    """A pipe that nobody writes to, a device, and a file too large for memory that takes no place on the disk."""
    path = Path(name)
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="it is a device"):
        read_pairs(path, write("ref.txt", "a\n"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="it is a pipe"):
        read_pairs(path, write("ref.txt", "a\n"))
    path.unlink()
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match="3,221,225,472 bytes"):
        read_pairs(path, write("ref.txt", "a\n"))


@pytest.mark.parametrize("value", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000, "[" * 500 + "]" * 500])
def test_json_beyond_measure_is_one_message(value: str) -> None:
    for text in (value, f'{{"output": {value}, "references": ["a"]}}', f'{{"output": "a", "references": {value}}}'):
        with pytest.raises(DataError, match=r"out\.jsonl, line 1: "):
            read_pairs(write("out.jsonl", text), None)
