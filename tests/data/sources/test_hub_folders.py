"""Data sets of the user's choice, read by the hub's own library from folders in the layouts that it knows."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from dora_cli.assembly.data import load_data, load_split
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Examples
from dora_cli.errors import DataError
from dora_cli.recipe import parse_recipe
from dora_cli.tasks import Task
from tests.data.sources.conftest import no_network

__all__ = ["no_network"]

pytestmark = pytest.mark.usefixtures("no_network")

TEXT = datasets.Value("string")
TOPICS = datasets.ClassLabel(names=["zoo", "art"])


def parquet(path: Path, columns: Mapping[str, Sequence[Any]], **features: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = datasets.Dataset.from_dict(dict(columns), features=datasets.Features(features) if features else None)
    made.to_parquet(path)


def csv_file(path: Path, header: Sequence[str], *rows: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def resolved(folder: Path | str, *changes: str, task: str = "classification") -> tuple[Any, Task]:
    text = f"""
        task: {task}
        model: {{name: "builtin:tiny-encoder"}}
        data: {{source: hub, name: "{folder}"}}
    """
    return resolve(parse_recipe(text, overrides=changes))


def loaded(
    folder: Path, *changes: str, task: str = "classification"
) -> tuple[Sequence[str] | None, Examples, Examples]:
    """The labels that are found, and the examples of training and evaluation."""
    recipe, found = resolved(folder, *changes, task=task)
    data = load_data(recipe, found)
    return found.labels, data.training, data.evaluated["validation"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A name in which the library finds no split, as it would in a test's own."""
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


COLUMNS = "data.columns={text: body, label: topic}"


def test_parquet_per_split_with_names_of_classes(folder: Path) -> None:
    """GLUE as it lies there: shards, labels as ids with names, -1 in the test split."""
    given = {"train": [0, 1, 1, 0], "validation": [1, 0], "test": [-1, -1]}
    for split, topics in given.items():
        for shard in range(2):
            part = topics[shard::2]
            columns = {"body": [f"{split} {shard} {row}" for row in range(len(part))], "topic": part}
            parquet(folder / "data" / f"{split}-0000{shard}-of-00002.parquet", columns, body=TEXT, topic=TOPICS)
    labels, training, evaluated = loaded(folder, COLUMNS)
    assert labels == ("art", "zoo")
    texts = ["train 0 0", "train 0 1", "train 1 0", "train 1 1"]
    assert training == Examples((texts,), [1, 0, 0, 1])
    assert evaluated == Examples((["validation 0 0", "validation 1 0"],), [0, 1])
    recipe, task = resolved(folder, COLUMNS)
    assert load_split(recipe, task, "test", training=False) == Examples((["test 0 0", "test 1 0"],), None)


@pytest.fixture
def languages(folder: Path) -> Path:
    """Csv files that the page of the data set assigns to configurations and splits."""
    entries = []
    for name, word in (("en", "film"), ("de", "Film")):
        csv_file(folder / name / "learn.csv", ["text", "label"], [f"a {word}", "x"], [f"no {word}", "y"])
        csv_file(folder / name / "check.csv", ["text", "label"], [f"the {word}", "y"])
        entries.append(
            f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/learn.csv\n"
            f"  - split: validation\n    path: {name}/check.csv\n"
        )
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(entries)}---\n# A set\n")
    return folder


def test_csv_files_by_configuration(languages: Path) -> None:
    assert loaded(languages, "data.config=de") == (
        ("x", "y"), Examples((["a Film", "no Film"],), [0, 1]), Examples((["the Film"],), [1]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"), [((), "is missing"), (("data.config=fr",), "is 'fr'")], ids=["missing", "unknown"]
)
def test_a_configuration_that_is_not_there(changes: Sequence[str], says: str, languages: Path) -> None:
    with pytest.raises(DataError, match=rf"^data\.config: {says}, but .* has 'en', 'de'; set it to one of them$"):
        resolved(languages, *changes)


def test_pairs_and_numbers(folder: Path) -> None:
    columns = {"first": ["a", "b"], "second": ["c", "d"], "score": [1.5, 2.5]}
    parquet(folder / "train.parquet", columns)
    parquet(folder / "validation.parquet", columns)
    named = "data.columns={text: first, text2: second, label: score}"
    pairs = Examples((["a", "b"], ["c", "d"]), [1.5, 2.5])
    assert loaded(folder, named, task="regression") == (None, pairs, pairs)


def test_a_split_that_is_missing(folder: Path) -> None:
    parquet(folder / "train.parquet", {"text": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"]})
    with pytest.raises(DataError, match=r"^data\.name: .* no split validation; it has 'train'; data\.validation: 0\.1"):
        loaded(folder)
    assert [len(part) for part in loaded(folder, "data.validation=0.5")[1:]] == [2, 2]
    with pytest.raises(DataError, match=r"^data\.name: .* has no split test; it has 'train'$"):
        load_split(*resolved(folder), "test", training=False)


def test_columns_that_are_called_otherwise(folder: Path) -> None:
    parquet(folder / "train.parquet", {"body": ["a", "b"], "topic": ["x", "y"]})
    with pytest.raises(DataError, match=r"no column 'text' .*; it has 'body', 'topic'\. .*'data\.columns=\{text: body"):
        resolved(folder)
    with pytest.raises(DataError, match=r"no column 'topik', which data\.columns gives for 'label'; it has 'body'"):
        resolved(folder, "data.columns={text: body, label: topik}")


@pytest.mark.parametrize(
    ("columns", "changes", "says"),
    [
        ({"text": [{"en": "a"}, {"en": "b"}], "label": [0, 1]}, (), r"row 1: column 'text' is .*\(an object\), not"),
        ({"text": ["a", "b"], "label": [[0], [1]]}, (), r"row 1: label '\[0\]' \(a list\)"),
        ({"text": ["a", None], "label": [0, 1]}, (), r"split train, row 2: column 'text' is null"),
        ({"text": ["a", "b"], "label": [0, 1]}, ("data.labels=['0', '2']",), r"row 2: label '1' \(a number\) is not"),
    ],
    ids=["object", "list", "null", "unknown"],
)  # fmt: skip
def test_values_that_are_none(columns: dict[str, Any], changes: Sequence[str], says: str, folder: Path) -> None:
    for split in ("train", "validation"):
        parquet(folder / f"{split}.parquet", columns)
    with pytest.raises(DataError, match=says):
        loaded(folder, *changes)


def test_a_split_without_labels_is_not_evaluated(folder: Path) -> None:
    for split, topics in (("train", [0, 1]), ("validation", [-1, -1])):
        parquet(folder / f"{split}.parquet", {"body": ["a", "b"], "topic": topics}, body=TEXT, topic=TOPICS)
    with pytest.raises(DataError, match=r"split validation: none of 2 rows has a label in the column 'topic'; fill"):
        loaded(folder, COLUMNS)


def test_pictures_beside_texts_are_not_decoded(folder: Path) -> None:
    columns = {"text": ["a", "b"], "label": ["x", "y"], "picture": [{"bytes": b"none", "path": None}] * 2}
    for split in ("train", "validation"):
        parquet(folder / f"{split}.parquet", columns, text=TEXT, label=TEXT, picture=datasets.Image())
    assert loaded(folder)[1] == Examples((["a", "b"],), [0, 1])


@pytest.mark.parametrize("content", [b"PAR1 and no more", None], ids=["broken", "empty"])
def test_a_folder_that_is_no_data_set(content: bytes | None, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (folder / "train.parquet").write_bytes(content)
    with pytest.raises(DataError) as caught:
        resolved(folder)
    message = str(caught.value)
    assert message.startswith(f"data.source hub: {folder}, could not be loaded: ")
    assert "is a folder on this machine: set data.source: files and data.path" in message
    assert "network" not in message
    assert capfd.readouterr().err == ""


def test_a_name_that_is_no_folder_and_no_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("mine.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r"^data\.name: '\./set' is no folder on this machine, and no id of a data "):
        resolved("./set")
    with pytest.raises(DataError, match=rf"^data\.name: '{folder}/mine\.csv' is a file, not a folder, and no id "):
        resolved(folder / "mine.csv")
    with pytest.raises(DataError, match=r"^data\.source hub: some/set, could not .*; no folder of this name"):
        resolved("some/set")
