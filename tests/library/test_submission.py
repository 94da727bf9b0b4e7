"""Where predictions may go: what is refused before anything is computed, and what is written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from dora_cli.data import Examples, Input
from dora_cli.data.sources.forms import Form
from dora_cli.errors import OutputError
from dora_cli.library.submission import Destination, Part, as_table
from dora_cli.tasks import get_task


@pytest.mark.parametrize(
    ("task", "output", "splits", "says"),
    [
        ("e2e", "sub/", ("test",), r"^--output sub/ is a folder; name a file in it, such as sub/out\.txt$"),
        (
            "glue/sst2",
            "out.txt",
            ("test",),
            (
                r"^--output out\.txt: predictions of glue/sst2 go to a \.jsonl or \.csv file .*, "
                r"which is there already or ends with /$"
            ),
        ),
        (
            "glue/mnli",
            "out.tsv",
            ("test_matched", "test_mismatched"),
            (
                r"^--output out\.tsv is one file, but the benchmark takes one for each of test_matched, "
                r"test_mismatched; "
                r"name a folder, such as out/, or one split by --split$"
            ),
        ),
        (
            "glue/sst2",
            "sub/",
            ("validation",),
            (
                r"^--output sub/ is a folder, which gets the benchmark's files of test; of validation it has none: "
                r"name a "
                r"\.tsv or \.jsonl file$"
            ),
        ),
        (
            "glue/mnli",
            "sub/",
            (),
            r"; for a file of your own there is none among MNLI-m\.tsv, MNLI-mm\.tsv: name a \.tsv or \.jsonl file$",
        ),
    ],
)
def test_what_an_output_cannot_take(task: str, output: str, splits: tuple[str, ...], says: str) -> None:
    with pytest.raises(OutputError, match=says):
        Destination.plan(output, get_task(task), splits, overwrite=False)


def test_the_examples_themselves_are_not_replaced(tmp_path: Path) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_text("{}\n")
    (tmp_path / "link.jsonl").symlink_to(source)
    for output in (source, tmp_path / "link.jsonl"):
        with pytest.raises(OutputError) as caught:
            Destination.plan(str(output), get_task("glue/sst2"), (), overwrite=True, source=source)
        assert str(caught.value) == (
            f"--output {output} would replace the examples of --input {source}; name another file"
        )


def test_a_file_that_the_benchmark_does_not_expect_is_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    destination = Destination.plan(f"{tmp_path / 'sub'}/", get_task("glue/sst2"), ("test",), overwrite=False)
    path = tmp_path / "sub" / "SST-2.tsv"
    assert destination.write([Part("test", [{}, {}], [1, 0])], notes.append) == [(path, 2)]
    assert notes == [f"{path} has 2 predictions; the benchmark's test has 1,821 examples"]
    assert path.read_text() == "index\tprediction\n0\t1\n1\t0\n"


def test_texts_go_to_stdout_one_a_line(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    destination = Destination.plan("-", get_task("e2e"), (), overwrite=False)
    part = Part(
        "mrs", [{"mr": "name[Zizzi]", "output": "Zizzi is a caf\u00e9 ."}, {"mr": "name[Aromi]", "output": ""}], None
    )
    assert destination.write([part], pytest.fail) == [(Path("-"), 2)]
    assert capsysbinary.readouterr().out == "Zizzi is a caf\u00e9 .\n\n".encode()


def answered(form: Form, **columns: list[str]) -> Part:
    """Predictions of a table of the user's own."""
    count = len(next(iter(columns.values())))
    records = [{"text": "", "prediction": "so", "probabilities": {"so": 0.75, "not": 0.25}}] * count
    return Part("mine", records, None, Input(Examples(([""] * count,), None), form, columns))


@pytest.mark.parametrize(("name", "sign"), [("semicolon", ";"), ("tab", "\t"), ("bar", "|"), (None, ",")])
def test_a_table_on_stdout_is_written_as_it_was_read(
    name: str | None, sign: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    part = answered(Form("csv", name), text=[f'a{sign}b\n"c"', "d\re"], id=["1", ""])
    task = get_task("classification")
    for output in ("-", "/dev/stdout"):
        Destination.plan(output, task, (), overwrite=False).write([part], pytest.fail)
        rows = list(csv.reader(io.StringIO(capsysbinary.readouterr().out.decode(), newline=""), delimiter=sign))
        assert rows == [
            ["text", "id", "prediction", "probability_so", "probability_not"],
            [f'a{sign}b\n"c"', "1", "so", "0.75", "0.25"],
            ["d\re", "", "so", "0.75", "0.25"],
        ]
    Destination.plan("-", task, (), overwrite=False, as_json=True).write([part], pytest.fail)
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert [json.loads(line) for line in lines] == part.records


def test_a_tsv_is_not_quoted(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    part = answered(Form("tsv"), text=['say "hi"'])
    expected = 'text\tprediction\tprobability_so\tprobability_not\nsay "hi"\tso\t0.75\t0.25\n'
    task = get_task("classification")
    Destination.plan("-", task, (), overwrite=False).write([part], pytest.fail)
    assert capsysbinary.readouterr().out.decode() == expected
    Destination.plan(str(tmp_path / "a.tsv"), task, (), overwrite=False).write([part], pytest.fail)
    assert (tmp_path / "a.tsv").read_text() == expected
    Destination.plan(str(tmp_path / "a.csv"), task, (), overwrite=False).write([part], pytest.fail)
    assert (tmp_path / "a.csv").read_text().startswith('text,prediction,probability_so,probability_not\n"say ""hi""",')
    with pytest.raises(OutputError, match=r"^'a\\\\tb' holds a tab or a line break, which no tsv can; write a \.csv "):
        as_table([answered(Form("csv"), text=["a\tb"])], Form("tsv"))


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "text"])
def test_what_is_no_csv_becomes_json_lines_on_stdout(kind: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    part = answered(Form(kind), text=["a"])
    Destination.plan("-", get_task("glue/sst2"), (), overwrite=False).write([part], pytest.fail)
    assert json.loads(capsysbinary.readouterr().out) == part.records[0]


def test_json_lines_are_asked_for_on_stdout_alone() -> None:
    with pytest.raises(OutputError, match=r"^--json is for stdout, but --output is a\.csv; leave one out, or name a "):
        Destination.plan("a.csv", get_task("glue/sst2"), (), overwrite=False, as_json=True)
