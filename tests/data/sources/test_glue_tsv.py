from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.data import load_examples
from dora_cli.errors import DataError
from dora_cli.tasks import get_task

REAL = Path(__file__).parents[4] / "shared" / "data" / "glue"


def write(folder: Path, name: str, *rows: str, bom: bool = False, end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + "".join(row + end for row in rows).encode())
    return path


def load(task: str, folder: Path, split: str = "train"):
    return load_examples(get_task(task).fields, "glue-tsv", split, path=folder)


def test_cola_has_no_header_but_its_test_file_has(tmp_path: Path) -> None:
    write(tmp_path, "train.tsv", 'gj04\t1\t\tHe said "no.', "ad03\t0\t*\tHim ran.")
    write(tmp_path, "test.tsv", "index\tsentence", "0\tBill left.")
    train = load("glue/cola", tmp_path)
    assert train.texts == (['He said "no.', "Him ran."],)
    assert train.labels == [1, 0]
    test = load("glue/cola", tmp_path, "test")
    assert test.texts == (["Bill left."],)
    assert test.labels is None


def test_quotes_and_unicode_line_ends_are_text(tmp_path: Path) -> None:
    write(tmp_path, "train.tsv", "sentence\tlabel", '"quoted\t1', "one\u2028two\x85three\x0b\t0", 'third"\t1')
    assert load("glue/sst2", tmp_path).texts == (['"quoted', "one\u2028two\x85three\x0b", 'third"'],)


def test_mrpc_with_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    rows = ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tone\ttwo", "0\t9\t10\tthree\tfour")
    write(tmp_path, "train.tsv", *rows, bom=True, end="\r\n")
    examples = load("glue/mrpc", tmp_path)
    assert examples.texts == (["one", "three"], ["two", "four"])
    assert examples.labels == [1, 0]
    write(tmp_path, "test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t7\t8\tone\ttwo")
    assert load("glue/mrpc", tmp_path, "test").labels is None


def test_stsb_scores_are_numbers(tmp_path: Path) -> None:
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    write(
        tmp_path, "dev.tsv", header, "0\tm\tf\t2012\t5\tn\tn\tone\ttwo\t4.750", "1\tm\tf\t2012\t5\tn\tn\tthree\tfour\t0"
    )
    examples = load("glue/stsb", tmp_path, "validation")
    assert examples.texts == (["one", "three"], ["two", "four"])
    assert examples.labels == [4.75, 0.0]
    assert all(type(label) is float for label in examples.labels)
    write(tmp_path, "dev.tsv", header, "0\tm\tf\t2012\t5\tn\tn\tone\ttwo\tnan")
    with pytest.raises(DataError, match=r"dev\.tsv, line 2: label 'nan' "):
        load("glue/stsb", tmp_path, "validation")


def test_mnli_has_two_evaluation_files_and_its_gold_label(tmp_path: Path) -> None:
    header = "index\tpromptID\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label"
    write(tmp_path, "dev_matched.tsv", header, "0\t1\tone\ttwo\tneutral\tneutral\tcontradiction")
    write(tmp_path, "dev_mismatched.tsv", header, "0\t1\tthree\tfour\tneutral\tneutral\tentailment")
    assert load("glue/mnli", tmp_path, "validation_matched").labels == [2]
    assert load("glue/mnli", tmp_path, "validation_mismatched").texts == (["three"], ["four"])
    with pytest.raises(DataError, match=r"^split: glue/mnli .*'validation'; .*'validation_matched'"):
        load("glue/mnli", tmp_path, "validation")


def test_rte_and_qnli_labels_are_words(tmp_path: Path) -> None:
    write(tmp_path, "train.tsv", "index\tsentence1\tsentence2\tlabel", "0\ta\tb\tnot_entailment", "1\tc\td\tentailment")
    assert load("glue/rte", tmp_path).labels == [1, 0]
    write(tmp_path, "dev.tsv", "index\tquestion\tsentence\tlabel", "0\tq\ts\tentailment")
    examples = load("glue/qnli", tmp_path, "validation")
    assert examples.texts == (["q"], ["s"])
    assert examples.labels == [0]


def test_the_broken_rows_of_qqp_are_left_out(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    # A line break within a question cuts a row in two; neither part is an example.
    rows = ["1\t3\t4\tone\ttwo\t1", '2\t5\t6\t"half', '\tother half\t0"', "3\t7\t8\tthree\tfour\t0"]
    write(tmp_path, "train.tsv", header, *rows)
    examples = load("glue/qqp", tmp_path)
    assert examples.texts == (["one", "three"], ["two", "four"])
    assert examples.labels == [1, 0]
    write(tmp_path, "train.tsv", header, *rows[:1], *["x\ty"] * 65)
    with pytest.raises(
        DataError,
        match=r"train\.tsv, line 67: 2 fields \(and 64 rows before it, more than the official file has\), "
        r"expected 6",
    ):
        load("glue/qqp", tmp_path)


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2\tlabel"
    path = write(tmp_path, "train.tsv", header, "0\ta\tb\tentailment", "1\tc\tentailment")
    with pytest.raises(DataError) as caught:
        load("glue/rte", tmp_path)
    assert f"{path}, line 3: 3 fields, expected 4 (index, sentence1, sentence2, label)" in str(caught.value)
    write(tmp_path, "train.tsv", header, "0\ta\tb\tentailment", "1\tc\td\te\tentailment")
    with pytest.raises(DataError, match="line 3: 5 fields, expected 4"):
        load("glue/rte", tmp_path)
    write(tmp_path, "train.tsv", header, "0\ta\tb\tentailment", "1\tc\td\tmaybe")
    with pytest.raises(DataError, match=r"line 3: label 'maybe' .*'entailment', 'not_entailment'"):
        load("glue/rte", tmp_path)
    write(tmp_path, "train.tsv", header, "0\ta\tb\tentailment", "", "1\tc\td\tentailment")
    with pytest.raises(DataError, match="line 3: the line is blank; remove it"):
        load("glue/rte", tmp_path)
    path.write_bytes(f"{header}\n0\ta\tb\tentailment\n".encode() + b"1\tcaf\xe9\td\tentailment\n")
    with pytest.raises(DataError, match="line 3: not UTF-8"):
        load("glue/rte", tmp_path)
    write(tmp_path, "train.tsv", "index\tsentence1\tlabel", "0\ta\tentailment")
    with pytest.raises(
        DataError,
        match=r"train\.tsv: no column 'sentence2'; the header has 'index', 'sentence1', "
        r"'label'",
    ):
        load("glue/rte", tmp_path)
    write(tmp_path, "train.tsv", "index\tsentence1\tsentence2", "0\ta\tb")
    with pytest.raises(DataError, match="no column 'label'"):
        load("glue/rte", tmp_path)


def test_blank_lines_at_the_end_are_harmless(tmp_path: Path) -> None:
    write(tmp_path, "train.tsv", "sentence\tlabel", "a\t1", "", "")
    assert len(load("glue/sst2", tmp_path)) == 1


def test_files_without_examples(tmp_path: Path) -> None:
    write(tmp_path, "train.tsv")
    with pytest.raises(DataError, match=r"train\.tsv: .*empty"):
        load("glue/sst2", tmp_path)
    with pytest.raises(DataError, match=r"train\.tsv: .*no examples"):
        load("glue/cola", tmp_path)
    write(tmp_path, "train.tsv", "sentence\tlabel")
    with pytest.raises(DataError, match=r"train\.tsv: .*no examples"):
        load("glue/sst2", tmp_path)


def test_a_wrong_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^data\.path: .*data\.source glue-tsv .*'dev\.tsv', 'test\.tsv', 'train\.tsv'",
    ):
        load("glue/rte", tmp_path / "absent")
    write(tmp_path / "RTE", "train.tsv", "x")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "RTE" / "train.tsv"))):
        load("glue/rte", tmp_path)  # found in the whole release, and read there


@pytest.mark.skipif(not REAL.is_dir(), reason="the official files are not here")
@pytest.mark.parametrize(
    ("name", "split", "ones"),
    [
        ("cola", "train", 6023),
        ("cola", "validation", 721),
        ("cola", "test", None),
        ("sst2", "train", 37569),
        ("sst2", "validation", 444),
        ("sst2", "test", None),
        ("rte", "train", 1241),
        ("rte", "validation", 131),
        ("rte", "test", None),
        ("wnli", "train", 312),
        ("wnli", "validation", 31),
        ("wnli", "test", None),
        ("qnli", "validation", 2761),
        ("qnli", "test", None),
    ],
)
def test_the_official_files(name: str, split: str, ones: int | None) -> None:
    task = get_task(f"glue/{name}")
    examples = load_examples(task.fields, "glue-tsv", split, path=REAL / task.tsv.folder)
    assert len(examples) == task.splits[split]
    assert (None if examples.labels is None else sum(examples.labels)) == ones
    assert all(text.strip() for column in examples.texts for text in column)
