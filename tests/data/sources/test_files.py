from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dora_cli.data import Examples, load_examples, read_file
from dora_cli.data.sources import files
from dora_cli.data.sources.tables import read_delimited
from dora_cli.errors import DataError
from dora_cli.tasks import get_task


def load(folder: Path, split: str = "train", task: str = "glue/sst2", **keys: Any) -> Examples:
    return load_examples(get_task(task).fields, "files", split, path=folder, **keys)


def write(folder: Path, name: str, columns: dict[str, Sequence[Any]]) -> None:
    """The same table in the format of the file's name."""
    import csv

    import pyarrow as pa
    from pyarrow import parquet

    path = folder / name
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if path.suffix == ".tsv" else {}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns), **dialect)
            writer.writeheader()
            writer.writerows(rows)


FORMATS = ["csv", "tsv", "json", "jsonl", "parquet"]


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_gives_the_same_examples(extension: str, tmp_path: Path) -> None:
    # Texts that readers like to take for something else.
    texts = ["NA", "null", "12", 'say "a, b"', "", " spaced ", "true", "naïve"]
    labels = ["good", "bad"] * 4
    write(tmp_path, f"train.{extension}", {"id": list(range(8)), "review": texts, "stars": labels})
    examples = load(tmp_path, columns={"sentence": "review", "label": "stars"}, labels=["bad", "good"])
    assert examples == Examples((texts,), [1, 0] * 4)


@pytest.mark.parametrize("extension", FORMATS)
def test_names_of_the_task_need_no_mapping(extension: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        f"validation_matched.{extension}",
        {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": ["neutral", "entailment"]},
    )
    assert load(tmp_path, "validation_matched", "glue/mnli") == Examples((["a", "b"], ["c", "d"]), [1, 0])


def test_general_names_serve_every_task(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", {"sentence1": ["a"], "sentence2": ["b"], "label": [2]})
    assert load(tmp_path, task="glue/mnli") == Examples((["a"], ["b"]), [2])
    write(tmp_path, "train.csv", {"q": ["a"], "p": ["b"], "label": [1]})
    assert load(tmp_path, task="glue/qnli", columns={"sentence1": "q", "sentence2": "p"}) == Examples(
        (["a"], ["b"]), [1]
    )
    assert load(tmp_path, task="glue/qnli", columns={"question": "q", "sentence": "p"}) == Examples((["a"], ["b"]), [1])


def test_a_quoted_csv_may_hold_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b'\xef\xbb\xbfsentence,label\r\n"two\nlines",1\r\n"a ""b""",0\r\n\r\n')
    assert load(tmp_path) == Examples((["two\nlines", 'a "b"'],), [1, 0])


def test_truth_values_of_json_are_labels_too(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", {"sentence": ["a", "b"], "label": [True, False]})
    assert load(tmp_path, labels=["false", "true"]).labels == [1, 0]


@pytest.mark.parametrize("extension", FORMATS)
def test_scores_of_a_regression(extension: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.{extension}", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [2.5, 4]})
    examples = load(tmp_path, task="glue/stsb")
    assert examples.labels == [2.5, 4.0]
    assert all(type(label) is float for label in examples.labels)


def test_a_copy_of_the_hubs_parquet_files(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
        }
    )
    for part in range(2):
        data = datasets.Dataset.from_dict(
            {"sentence1": [f"a{part}"], "sentence2": ["b"], "label": [part]}, features=features
        )
        data.to_parquet(tmp_path / f"train-0000{part}-of-00002.parquet")
    data = datasets.Dataset.from_dict({"sentence1": ["t"], "sentence2": ["b"], "label": [-1]}, features=features)
    data.to_parquet(tmp_path / "test-00000-of-00001.parquet")
    assert load(tmp_path, task="glue/rte") == Examples((["a0", "a1"], ["b", "b"]), [0, 1])
    assert load(tmp_path, "test", "glue/rte") == Examples((["t"], ["b"]), None)


def test_a_test_file_needs_no_labels_but_the_others_do(tmp_path: Path) -> None:
    write(tmp_path, "test.csv", {"sentence": ["a"]})
    write(tmp_path, "validation.csv", {"sentence": ["a"]})
    assert load(tmp_path, "test").labels is None
    assert load(tmp_path, "test", columns={"label": "stars"}).labels is None
    with pytest.raises(DataError, match=r"validation\.csv: no column 'label'; it has 'sentence'"):
        load(tmp_path, "validation")
    write(tmp_path, "test.csv", {"sentence": ["a", "b"], "label": ["positive", "negative"]})
    assert load(tmp_path, "test").labels == [1, 0]


@pytest.mark.parametrize("extension", FORMATS)
def test_a_missing_column_names_what_is_there(extension: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.{extension}", {"text": ["a"], "label": ["positive"]})
    with pytest.raises(
        DataError,
        match=r"no column 'sentence'; it has 'text', 'label'\. .*--set "
        r"'data\.columns=\{sentence: text\}'$",
    ):
        load(tmp_path)
    with pytest.raises(
        DataError,
        match=r"no column 'Text', which data\.columns gives for 'sentence'; it has 'text', "
        r"'label'",
    ):
        load(tmp_path, columns={"sentence": "Text"})


@pytest.mark.parametrize(
    ("extension", "place"),
    [("csv", "line 4"), ("tsv", "line 4"), ("json", "row 3"), ("jsonl", "line 3"), ("parquet", "row 3")],
)
def test_an_unknown_label_names_its_place_and_what_is_allowed(extension: str, place: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.{extension}", {"sentence": ["a", "b", "c"], "label": ["no", "yes", "perhaps"]})
    with pytest.raises(DataError) as caught:
        load(tmp_path, labels=["no", "yes"])
    assert (f"train.{extension}, {place}: label 'perhaps' ") in str(caught.value)
    assert all(word in str(caught.value) for word in ("'no', 'yes'", "data.labels"))
    with pytest.raises(DataError, match=r"label 'no' .*'negative', '0', 'positive', '1'"):
        load(tmp_path)


def place(extension: str) -> str:
    """What the rows of a file that is no csv or tsv are counted in: every line of JSON lines is one."""
    return "line" if extension == "jsonl" else "row"


@pytest.mark.parametrize("extension", ["json", "jsonl", "parquet"])
def test_null_texts_and_labels(extension: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.{extension}", {"sentence": ["a", None], "label": [0, 1]})
    with pytest.raises(
        DataError,
        match=rf"train\.{extension}, {place(extension)} 2: column 'sentence' is null;",
    ):
        load(tmp_path)
    write(tmp_path, f"train.{extension}", {"sentence": ["a", "b"], "label": ["positive", None]})
    with pytest.raises(DataError, match=f"{place(extension)} 2: label null "):
        load(tmp_path)
    write(tmp_path, f"train.{extension}", {"sentence": [1, 2], "label": [0, 1]})
    with pytest.raises(DataError, match=rf"{place(extension)} 1: column 'sentence' is '1' \(a number\)"):
        load(tmp_path)


@pytest.mark.parametrize("extension", FORMATS)
def test_an_empty_file(extension: str, tmp_path: Path) -> None:
    (tmp_path / f"train.{extension}").touch()
    with pytest.raises(DataError, match=rf"train\.{extension}: .*\bempty;"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("extension", "text"), [("csv", "sentence,label\n"), ("tsv", "sentence\tlabel\n"), ("json", "[]"), ("parquet", "")]
)
def test_a_file_without_examples(extension: str, text: str, tmp_path: Path) -> None:
    if extension == "parquet":
        write(tmp_path, "train.parquet", {"sentence": [], "label": []})
    else:
        (tmp_path / f"train.{extension}").write_text(text)
    with pytest.raises(
        DataError,
        match=rf"train\.{extension}: .*(no examples;|cannot be .*; \w+)",
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.csv", "sentence,label\na,1\nb,0,x\n", "line 3: 3 fields, expected 2 (sentence, label)"),
        ("train.csv", "sentence,label\na\n", "line 2: 1 field, expected 2 (sentence, label)"),
        ("train.csv", "sentence,label\na,1,x\nb,0,y\n", "line 2: 3 fields, expected 2"),
        (
            "train.csv",
            'sentence,label\na,1\n"open,0\n',
            "train.csv, line 3: ",
        ),
        ("train.csv", "label,label\n1,1\n", "'label'"),
        (
            "train.tsv",
            "sentence\tlabel\na\tb\t1\n",
            "train.tsv, line 2: 3 fields, expected 2 ",
        ),
        (
            "train.json",
            '[{"sentence": "a", "label": 1}',
            "train.json, line 1: not JSON (",
        ),
        (
            "train.jsonl",
            '{"sentence": "a", "label": 1}\n{"sentence": \n',
            "train.jsonl, line 2: not JSON (",
        ),
        ("train.parquet", "not parquet", "cannot be read as parquet: "),
    ],
)
def test_a_damaged_file(name: str, text: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "; " in str(caught.value), "what to do about it"
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"sentence,label\nok,1\ncaf\xe9,0\n")
    with pytest.raises(DataError, match=r"train\.csv, line 3: not UTF-8"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "train.json", "train.jsonl"])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_of_two_bytes_a_character_is_named_even_where_it_is_valid_utf8(
    codec: str, name: str, tmp_path: Path
) -> None:
    write(tmp_path, name, {"sentence": ["a", "b"], "label": [1, 0]})
    (tmp_path / name).write_bytes((tmp_path / name).read_text().encode(codec))
    with pytest.raises(DataError, match=rf"{name}: is UTF-16(LE|BE)?, not UTF-8"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "separator", "named"),
    [
        ("train.csv", ";", "semicolons"),
        ("train.csv", "|", "bars"),
        ("train.csv", "\t", "tabs"),
        ("train.tsv", ",", "commas"),
        ("train.tsv", ";", "semicolons"),
    ],
)
@pytest.mark.parametrize("row", ["good,1", "a, b;1", '"a, b";1', '"a";"b'])
def test_fields_that_something_else_separates(name: str, separator: str, named: str, row: str, tmp_path: Path) -> None:
    """Whatever the first fault is that the rows give: a column that is missing, too many fields, a
    quote in the middle.
    """
    (tmp_path / name).write_text(f"sentence{separator}label\n{row}\n")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / name}: ")
    assert f" separated by {named}, " in said
    with pytest.raises(DataError, match=f" separated by {named}, "):
        load(tmp_path, columns={"sentence": "text"})


def test_a_single_column_may_have_such_a_name(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("Text (DE; EN)\na film ; good\n")
    assert read_file(get_task("glue/sst2").fields, tmp_path / "own.csv", {"sentence": "Text (DE; EN)"}).texts == (
        ["a film ; good"],
    )


def test_the_folder_and_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.path: missing; data\.source files "):
        load_examples(get_task("glue/sst2").fields, "files", "train")
    either = r"name a file in csv, .* or parquet to train on, or a folder with one per split, such as train\.csv"
    with pytest.raises(DataError, match=rf"absent' does not exist; {either}"):
        load(tmp_path / "absent")
    for name, ends in (("examples.txt", r"that ends in \.txt"), ("examples", "without an ending")):
        (tmp_path / name).write_text("a,1")
        with pytest.raises(DataError, match=rf"{name}' is a file {ends}; {either}"):
            load(tmp_path / name)
        (tmp_path / name).unlink()
    write(tmp_path, "other.csv", {"sentence": ["a"], "label": [1]})
    with pytest.raises(DataError, match=r"is a file, not a folder.*data\.validation"):
        load(tmp_path / "other.csv", "validation")
    assert load(tmp_path / "other.csv") == Examples((["a"],), [1])  # all there is, to learn from
    with pytest.raises(DataError) as caught:
        load(tmp_path, "validation")
    assert "looked for validation.{csv,tsv,json,jsonl,parquet}" in str(caught.value)
    assert "found 'other.csv'" in str(caught.value)
    assert "needs the splits train, validation" in str(caught.value)
    write(tmp_path, "train.csv", {"sentence": ["a"], "label": [1]})
    write(tmp_path, "train.json", {"sentence": ["a"], "label": [1]})
    with pytest.raises(DataError, match=r"has 'train\.csv', 'train\.json' for the split train; keep one"):
        load(tmp_path)


def test_columns_and_labels_that_do_not_fit_the_task(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", {"sentence": ["a"], "label": [1]})
    with pytest.raises(
        DataError,
        match=r"^data\.columns: 'sentence3' .*'sentence', 'label'",
    ):
        load(tmp_path, columns={"sentence3": "x"})
    with pytest.raises(DataError, match=r"^data\.columns: 'premise', 'sentence1' "):
        load(tmp_path, task="glue/mnli", columns={"premise": "x", "sentence1": "y"})
    with pytest.raises(
        DataError,
        match=r"data\.labels: 'a', 'b', 'c' hold 3 different values, but glue/sst2 has 2 "
        r"labels",
    ):
        load(tmp_path, labels=["a", "b", "c"])
    with pytest.raises(DataError, match=r"data\.labels: 'a', 'a' hold 1 different value, but"):
        load(tmp_path, labels=["a", "a"])
    with pytest.raises(DataError, match=r"^data\.labels: '0', '1' .*glue/stsb"):
        load(tmp_path, task="glue/stsb", labels=["0", "1"])


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("names", [("meaning_representation", "human_reference"), ("mr", "ref"), ("table", "sentence")])
def test_sources_and_references(names: tuple[str, str], extension: str, tmp_path: Path) -> None:
    columns = None if names[0] != "table" else {"mr": "table", "human_reference": "sentence"}
    write(tmp_path, f"train.{extension}", {names[0]: ["name[A]", "name[A]"], names[1]: ["A.", "NA"], "id": [1, 2]})
    assert load(tmp_path, task="e2e", columns=columns) == Examples((["name[A]", "name[A]"], ["A.", "NA"]), None)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_test_file_needs_no_references_but_the_others_do(extension: str, tmp_path: Path) -> None:
    for split in ("validation", "test"):
        write(tmp_path, f"{split}.{extension}", {"mr": ["name[A]", "name[B]"]})
    assert load(tmp_path, "test", "e2e") == Examples((["name[A]", "name[B]"],), None)
    assert load(tmp_path, "test", "e2e", columns={"ref": "text"}) == Examples((["name[A]", "name[B]"],), None)
    with pytest.raises(
        DataError,
        match=r"'human_reference' or 'ref'; it has 'mr'\. .*'human_reference' ",
    ):
        load(tmp_path, "validation", "e2e")
    write(tmp_path, f"test.{extension}", {"mr": ["name[A]", "name[B]"], "ref": ["", ""]})
    assert load(tmp_path, "test", "e2e") == Examples((["name[A]", "name[B]"],), None)
    write(tmp_path, f"test.{extension}", {"mr": ["name[A]", "name[B]"], "ref": ["A.", ""]})
    with pytest.raises(DataError, match=rf"test\.{extension}, (line 3|row 2|line 2): column 'ref' is empty"):
        load(tmp_path, "test", "e2e")


@pytest.mark.parametrize("extension", FORMATS)
def test_empty_sources_and_references_name_their_place(extension: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.{extension}", {"mr": ["name[A]", " "], "ref": ["A.", "B."]})
    with pytest.raises(
        DataError,
        match=rf"train\.{extension}, (line 3|row 2|line 2): column 'mr' is empty;",
    ):
        load(tmp_path, task="e2e")
    write(tmp_path, f"train.{extension}", {"mr": ["name[A]", "name[B]"], "ref": ["", "B."]})
    with pytest.raises(DataError, match=rf"train\.{extension}, (line 2|row 1|line 1): column 'ref' is empty"):
        load(tmp_path, task="e2e")


def test_columns_that_do_not_fit_generation(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", {"mr": ["a"], "ref": ["b"]})
    with pytest.raises(
        DataError,
        match=r"^data\.columns: 'label' .*'meaning_representation', 'mr', 'human_reference', 'ref'$",
    ):
        load(tmp_path, task="e2e", columns={"label": "ref"})
    with pytest.raises(DataError, match=r"^data\.columns: 'meaning_representation', 'mr' .*e2e"):
        load(tmp_path, task="e2e", columns={"mr": "x", "meaning_representation": "y"})


@pytest.mark.parametrize("extension", FORMATS)
def test_one_file_to_predict_has_texts_and_its_labels_are_not_read(extension: str, tmp_path: Path) -> None:
    write(tmp_path, f"own.{extension}", {"premise": ["a", "b"], "sentence2": ["c", ""], "label": ["never", "seen"]})
    path = tmp_path / f"own.{extension}"
    assert read_file(get_task("glue/mnli").fields, path, None) == Examples((["a", "b"], ["c", ""]), None)
    assert read_file(get_task("glue/rte").fields, path, {"sentence1": "premise"}) == Examples(
        (["a", "b"], ["c", ""]), None
    )
    with pytest.raises(DataError, match=r"no column 'sentence'; it has 'premise', 'sentence2', 'label'"):
        read_file(get_task("glue/sst2").fields, path, None)


def test_an_official_test_file_can_be_predicted_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text(
        '\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tHe said "no.\tHe did .\n', encoding="utf-8"
    )
    assert read_file(get_task("glue/mrpc").fields, path, None) == Examples((['He said "no.'], ["He did ."]), None)


def test_plain_text_to_predict_holds_one_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a film .\nNA\n")
    assert read_file(get_task("glue/cola").fields, tmp_path / "own.txt", None) == Examples((["a film .", "NA"],), None)
    with pytest.raises(DataError, match=r"own\.txt: glue/qqp reads pairs of texts.*'question1', 'question2'"):
        read_file(get_task("glue/qqp").fields, tmp_path / "own.txt", None)
    (tmp_path / "own.txt").write_text("a film .\n\na play .\n")
    with pytest.raises(DataError, match=r"own\.txt, line 2: the line is blank; write a text there or remove the line$"):
        read_file(get_task("glue/cola").fields, tmp_path / "own.txt", None)


def test_nothing_is_left_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    write(tmp_path, "train.jsonl", {"sentence": ["a"], "label": [1]})
    bars = datasets.are_progress_bars_disabled()
    assert len(load(tmp_path)) == 1
    assert not cache.exists() or not os.listdir(cache)
    assert datasets.are_progress_bars_disabled() == bars


@pytest.mark.parametrize("name", ["dev", "val", "eval"])
def test_other_names_of_the_validation_split(name: str, tmp_path: Path) -> None:
    write(tmp_path, f"{name}.csv", {"sentence": ["a"], "label": [1]})
    assert load(tmp_path, "validation") == Examples((["a"],), [1])
    write(tmp_path, "validation.jsonl", {"sentence": ["a"], "label": [1]})
    with pytest.raises(DataError, match=rf"'validation\.jsonl', '{name}\.csv' for the split validation; keep one"):
        load(tmp_path, "validation")


def test_a_part_of_the_training_file_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", {"sentence": [str(row) for row in range(40)], "label": [0] * 30 + [1] * 10})
    learned, held = (load(tmp_path, split, validation=0.2) for split in ("train", "validation"))
    assert (held.labels.count(0), held.labels.count(1)) == (6, 2)  # type: ignore[union-attr]
    assert sorted([*learned.texts[0], *held.texts[0]], key=int) == [str(row) for row in range(40)]
    assert load(tmp_path, "validation", validation=0.2) == held  # always the same
    assert len(held.notes) == 1
    assert "8 of the 40 rows of the training file" in held.notes[0]
    write(tmp_path, "dev.csv", {"sentence": ["a"], "label": [1]})
    with pytest.raises(DataError, match=r"data\.validation: is 0\.2, but there is dev\.csv"):
        load(tmp_path, validation=0.2)
    with pytest.raises(DataError, match=r"data\.validation: .*validation_matched, validation_mismatched"):
        load(tmp_path, task="glue/mnli", validation=0.2)


def test_a_file_of_one_class_with_one_example_is_not_parted(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", {"sentence": ["a", "b"], "label": [0, 1]})
    with pytest.raises(DataError, match=r"2 examples in .* cannot be parted"):
        load(tmp_path, "validation", validation=0.5)


@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_rows_with_gaps_are_left_out_and_counted(extension: str, tmp_path: Path) -> None:
    texts, labels = ["a", "", "c", "d", "e"], ["1", "0", "", "0", " "]
    write(tmp_path, f"train.{extension}", {"sentence": texts, "label": labels})
    with pytest.raises(DataError, match=r"line [34]: label ''"):
        load(tmp_path)
    examples = load(tmp_path, skip=True)
    assert examples == Examples((["a", "d"],), [1, 0])
    (note,) = examples.notes
    assert "3 of 5 rows without sentence or label left out" in note
    first = 3 if extension == "csv" else 2  # a csv has a header
    assert f"(line {first}; line {first + 1}; line {first + 3})" in note
    write(tmp_path, f"test.{extension}", {"sentence": ["a", ""], "label": ["", ""]})
    assert load(tmp_path, "test", skip=True) == Examples((["a"],), None)
    write(tmp_path, f"validation.{extension}", {"sentence": [""], "label": ["1"]})
    with pytest.raises(DataError, match="no row has all of 'sentence', 'label'"):
        load(tmp_path, "validation", skip=True)


@pytest.mark.parametrize("extension", ["csv", "tsv", "json", "jsonl"])
def test_packed_files(extension: str, tmp_path: Path) -> None:
    write(tmp_path, f"train.{extension}", {"sentence": ["a", "b"], "label": ["1", "x"]})
    packed = tmp_path / f"train.{extension}.gz"
    packed.write_bytes(gzip.compress((tmp_path / f"train.{extension}").read_bytes()))
    (tmp_path / f"train.{extension}").unlink()
    with pytest.raises(DataError, match=rf"{packed}, (line|row) [23]: label 'x'"):
        load(tmp_path)
    assert load(tmp_path, labels=["x", "1"]) == Examples((["a", "b"],), [1, 0])
    assert read_file(get_task("glue/sst2").fields, packed, None) == Examples((["a", "b"],), None)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(DataError, match=rf"{packed}: cannot be unpacked"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "text"),
    [
        ("train.csv", "semicolon", 'sentence;label\n"a; ""b"",\nc";positive\n'),
        ("train.tsv", "comma", 'sentence,label\n"a; ""b"",\nc",positive\n'),
        ("train.csv", "semicolon", 'sentence,label\n"a; ""b"",\nc",positive\n'),  # not in the header: passed over
    ],
)
def test_a_separator_of_ones_own(name: str, key: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert load(tmp_path, separator=key).texts == (['a; "b",\nc'],)


def test_the_training_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(files, "read_delimited", lambda path, sign: (read.append(path), read_delimited(path, sign))[1])
    (tmp_path / "train.csv").write_text("sentence,label\na,0\nb,1\nc,1\nd,0\n")
    assert len(load(tmp_path, validation=0.5)) == 2
    assert len(load(tmp_path, "validation", validation=0.5)) == 2
    assert len(read) == 1
    (tmp_path / "train.csv").write_text("sentence,label\na,0\n")
    assert len(load(tmp_path)) == 1
    assert len(read) == 2
    files.forget_table()
    load(tmp_path)
    assert len(read) == 3
