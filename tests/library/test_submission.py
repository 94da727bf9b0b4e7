"""Where predictions may go: what is refused before anything is computed, and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.library.submission import Destination, Part
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
