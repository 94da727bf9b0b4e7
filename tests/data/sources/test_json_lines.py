"""Broken JSON: the line, counted from 1 as an editor counts, and what to do about it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dora_cli.data import load_examples, read_file
from dora_cli.errors import DataError
from dora_cli.tasks import get_task

GOOD = '{"sentence": "a", "label": 1}\n'


def message(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        load_examples(get_task("glue/sst2").fields, "files", "train", path=path.parent)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)[len(str(path)) :]


@pytest.mark.parametrize("before", [GOOD * 2, GOOD + "\n", "\n\n"])
@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_a_broken_line_and_a_bad_value_count_alike(name: str, before: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if before.strip() or name == "train.jsonl":
        assert message(path, f'{before}{{"sentence": \n{GOOD}').startswith(
            ", line 3: not JSON (Expecting value at column 14); fix the line"
        )
    assert message(path, f'{before}{{"sentence": "b", "label": 7}}\n{GOOD}').startswith(
        ", line 3: label '7' (a number)"
    )
    assert message(path, f'{before}{{"sentence": null, "label": 1}}\n{GOOD}').startswith(
        ", line 3: column 'sentence' is null"
    )


def test_rows_of_a_list_are_counted_as_rows(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    # Two lines that hold something and two rows, but no line is a row.
    assert message(path, '[{"sentence": "a", "label": 1}, {"sentence": "b",\n "label": 7}]').startswith(
        ", row 2: label '7'"
    )
    assert message(path, '[{"sentence": "a", "label": 1},\n {"sentence": "b" "label": 7}]').startswith(
        ", line 2: not JSON (Expecting ','"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "5\n", ', line 2: 5 is no object, such as {"column": "value"}; fix the line'),
        (
            GOOD + '{"sentence": "b\n',
            ", line 2: not JSON (Unterminated string starting at column 14); fix the line: every line is an object",
        ),
        ("\n \n", ": holds blank lines alone; write the examples into it"),
    ],
)
def test_other_faults(text: str, says: str, tmp_path: Path) -> None:
    assert message(tmp_path / "train.jsonl", text).startswith(says)


def test_values_of_two_kinds_name_both_places(tmp_path: Path) -> None:
    from dora_cli.data.sources.json_lines import json_fault

    path = tmp_path / "own.jsonl"
    path.write_text('{"sentence": null}\n{"sentence": "a"}\n\n{"sentence": 3}\n')
    fault = f"{path}, line 4: column 'sentence' holds a number, but text in line 2; give a column one kind of value"
    assert str(json_fault(path)) == fault
    # Whether the reader takes such a column is its own affair; a number is no text either way, and its place is told.
    with pytest.raises(DataError, match=r"own\.jsonl, line 4: column 'sentence' "):
        read_file(get_task("glue/sst2").fields, path, None)
    path.write_text('{"sentence": "a"}\n{"sentence": "b"}\n')
    assert json_fault(path) is None
    path.unlink()
    assert str(json_fault(path)).startswith(f"{path}: cannot be read: {os.strerror(errno.ENOENT)};")


def test_json_that_is_not_utf8(tmp_path: Path) -> None:
    assert ", line 2: not UTF-8" in message(
        tmp_path / "train.jsonl", GOOD.encode() + b'{"sentence": "\xe9", "label": 1}\n'
    )


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_whatever_the_bytes_there_is_one_message(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert "line 1: not UTF-8" in message(path, b'{"sent\xffence": "a", "label": 1}\n')
    assert "line 2: not UTF-8" in message(path, GOOD.encode() + b'{"sentence": "a", "label": 1, "\xff": {"\xff": 1}}\n')
    # the last breaks Arrow's reader down
    for deep in ("[" * 100_000, "[" * 1000 + "]" * 1000, "[" * 20_000 + "]" * 20_000):
        assert "line 2: not JSON (nested " in message(path, f'{GOOD}{{"sentence": {deep}, "label": 1}}\n')
        assert "not JSON (nested " in message(path, deep)


@pytest.mark.parametrize("text", ["null", " null\nnull\n", "null null", "\ufeffnull", "1", '"a"', "\n\nnull\n"])
@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_rows_that_are_no_objects(name: str, text: str, tmp_path: Path) -> None:
    """Arrow's reader breaks down where all are null."""
    said = message(tmp_path / name, text)
    assert ": not JSON" in said or " no object" in said


def test_an_object_may_take_several_lines(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('[\n {"sentence": "a",\n"label":\n1}\n]')
    assert load_examples(get_task("glue/sst2").fields, "files", "train", path=tmp_path).texts == (["a"],)


def test_brackets_in_texts_are_text(tmp_path: Path) -> None:
    texts = ["[" * 500, '"' + "{" * 500 + '\\"[']
    for name in ("train.json", "train.jsonl"):
        rows = [json.dumps({"sentence": text, "label": 1}) for text in texts]
        (tmp_path / name).write_text("\n".join(rows) if name == "train.jsonl" else f"[{', '.join(rows)}]")
        assert load_examples(get_task("glue/sst2").fields, "files", "train", path=tmp_path).texts == (texts,)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.csv", "train.tsv"])
def test_a_line_without_an_end_is_not_read(name: str, tmp_path: Path) -> None:
    """3 GB that take no place on the disk."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match=r"line 1 has more than|3,221,225,472 bytes"):
        load_examples(get_task("glue/sst2").fields, "files", "train", path=tmp_path)


@pytest.mark.parametrize(
    "half", [r"\ud800", r"\uDFFF", r"\udc00\ud800", r"\ud83d\ud83d\ude00", r"\\\ud800", r"\ud800\\udc00"]
)
@pytest.mark.parametrize("key", ["sentence", "other"])
def test_half_of_a_surrogate_pair_is_refused_with_its_line(key: str, half: str, tmp_path: Path) -> None:
    for name, text in (
        ("train.jsonl", f'{GOOD}\n{{"sentence": "b", "label": 1, "{key}": "x{half}y"}}\n'),
        ("train.json", f'[{GOOD},\n{{"sentence": "b", "label": 1, "{key}": "x{half}y"}}]'),
    ):
        assert ", line 3: the text holds \\u" in message(tmp_path / name, text)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("whole", [r"\ud83d\ude00", r"\\ud800", r"\u00e9", r"\\\\udc00", r"\ud7ff\ue000"])
def test_other_escapes_are_what_json_says(whole: str, tmp_path: Path) -> None:
    for name, text in (("own.jsonl", f'{{"sentence": "{whole}"}}\n'), ("own.json", f'[{{"sentence": "{whole}"}}]')):
        (tmp_path / name).write_text(text)
        assert read_file(get_task("glue/sst2").fields, tmp_path / name, None).texts == ([json.loads(f'"{whole}"')],)
