"""What a stream holds is told by its content, as a user of csv tools expects it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.data import read_input
from dora_cli.errors import DataError
from dora_cli.tasks import get_task


def read(path: Path, content: str | bytes, task: str = "glue/sst2", **options: object) -> tuple[str, object, object]:
    """Kind, sign and texts of a stream that is `content`."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_input(get_task(task).fields, path, options.pop("columns", None), **options)  # type: ignore[arg-type]
    texts = found.examples.texts
    return found.form.kind, found.form.sign, texts[0] if len(texts) == 1 else texts


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    return tmp_path / "stream.txt"


@pytest.mark.parametrize(
    ("content", "kind", "sign", "texts"),
    [
        ("id,sentence\n1,a film\n", "csv", ",", ["a film"]),
        ("sentence\na film\n", "csv", ",", ["a film"]),
        ("SENTENCE\r\na film\r\n", "csv", ",", ["a film"]),
        ('\ufeff"id";"sentence"\n1;"a film; good"\n', "csv", ";", ["a film; good"]),
        ("id|sentence\n1|a, film\n", "csv", "|", ["a, film"]),
        ('id,sentence\n1,"two\n\nlines, ""so"""\n', "csv", ",", ['two\n\nlines, "so"']),
        ('id\tsentence\n1\t"so" it is\n', "tsv", "\t", ['"so" it is']),
        ('"id"\t"sentence"\n1\t"a ""film"""\n', "csv", "\t", ['a "film"']),
        ('\ufeff\n {"sentence": "a film"}\n', "jsonl", ",", ["a film"]),
        ('[ {"sentence": "a film"}]', "json", ",", ["a film"]),
        ("a film, good\nfine, well done\n", "text", ",", ["a film, good", "fine, well done"]),
        ("Good,bad\nugly\n", "text", ",", ["Good,bad", "ugly"]),
        ("[sic] a film\n", "text", ",", ["[sic] a film"]),
        ("good;bad", "text", ",", ["good;bad"]),
        ('"Open\nsentence, never closed\n', "text", ",", ['"Open', "sentence, never closed"]),
    ],
)
def test_what_it_holds(content: str, kind: str, sign: str, texts: list[str], stream: Path) -> None:
    assert read(stream, content) == (kind, sign, texts)


def test_columns_that_the_user_names_make_a_header(stream: Path) -> None:
    named = {"columns": {"sentence": "Text (DE; EN)"}}
    assert read(stream, "Text (DE; EN),stars\na; b,1\n", **named) == ("csv", ",", ["a; b"])
    assert read(stream, "Text (DE; EN)\na; b\n", **named) == ("csv", ",", ["a; b"])


def test_pairs_are_always_a_table(stream: Path) -> None:
    pairs = read(stream, "sentence2;sentence1\nc;a\nd;b\n", task="glue/rte")
    assert pairs == ("csv", ";", (["a", "b"], ["c", "d"]))
    with pytest.raises(DataError, match=r"no column 'sentence2'; it has 'sentence1', 'and more'"):
        read(stream, "sentence1,and more\na,b\n", task="glue/rte")
    with pytest.raises(DataError, match=r"pairs of texts, which plain text cannot hold.*'sentence1', 'sentence2'"):
        read(stream, "a text\n", task="glue/rte")


def test_a_separator_of_the_recipe_comes_first(stream: Path) -> None:
    """And is passed over where the header does not have it."""
    assert read(stream, "a,b;sentence\n1,2;a\n", separator="semicolon") == ("csv", ";", ["a"])
    assert read(stream, "sentence\na;b\n", separator="semicolon") == ("csv", ",", ["a;b"])


@pytest.mark.parametrize("name", ["own.csv", "own.tsv"])
def test_a_name_that_is_not_true_is_passed_over_too(name: str, tmp_path: Path) -> None:
    for sign in ",;\t|":
        assert read(tmp_path / name, f"id{sign}sentence\n1{sign}a\n")[1:] == (sign, ["a"])


def test_a_table_without_the_column_may_be_text(stream: Path) -> None:
    table = "id,review\n1,a film\n2,a play\n"
    with pytest.raises(
        DataError,
        match=r"stream\.txt: no column 'sentence'; it has 'id', 'review'\. .*\{sentence: review\}.* --format text$",
    ):
        read(stream, table)
    assert read(stream, table, form="text")[2] == ["id,review", "1,a film", "2,a play"]
    with pytest.raises(DataError, match=r"'id', 'my review'.*--format text$"):
        read(stream, "id\tmy review\n1\ta film\n")


def test_what_the_user_says_comes_before_name_and_content(tmp_path: Path) -> None:
    path = tmp_path / "export.dat"
    assert read(path, "sentence\na film\n", form="text") == ("text", ",", ["sentence", "a film"])
    assert read(path, 'sentence\tid\n"a"\t1\n', form="csv") == ("csv", "\t", ["a"])
    assert read(path, 'sentence\tid\n"a"\t1\n', form="tsv") == ("tsv", "\t", ['"a"'])
    assert read(tmp_path / "own.csv", '{"sentence": "a"}\n', form="jsonl") == ("jsonl", ",", ["a"])
    assert read(tmp_path / "own.jsonl", "sentence\na\n", form="csv") == ("csv", ",", ["a"])
    with pytest.raises(DataError, match=r"^.*export\.dat: no column 'sentence'; it has 'review'\."):
        read(path, "review\na film\n", form="csv")
    with pytest.raises(DataError, match=r"^.*export\.dat, line 3: 1 field, expected 2"):
        read(path, "sentence,id\na,1\nb\n", form="csv")


def test_what_is_no_utf8_is_said(stream: Path) -> None:
    with pytest.raises(DataError, match=r"stream\.txt, line 2: .*UTF-8"):
        read(stream, b"sentence,id\ncaf\xe9,1\n")
    with pytest.raises(DataError, match=r"stream\.txt: .*UTF-16"):
        read(stream, "sentence,id\na,1\n".encode("utf-16"))
