from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import HfApi

from dora_cli.data import Examples, load_examples
from dora_cli.data.sources.fields import HubSource
from dora_cli.errors import DataError
from dora_cli.tasks import get_task


def local_hub(folder: Path, columns: dict[str, Any], features: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(
            folder / f"{split}-00000-of-00001.parquet"
        )


TEXT = datasets.Value("string")


@pytest.mark.parametrize(
    "error",
    [ConnectionError("down"), PermissionError(13, "Permission denied", "/cache"), ValueError(""), OSError("a\nb")],
)
def test_every_failure_of_the_hub_is_one_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: None)  # it answers, and then
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=rf"^data\.source hub: .*: {type(error).__name__}: "):
        load_examples(get_task("glue/rte").fields, "hub", "validation")


@pytest.mark.usefixtures("no_network")
def test_the_hubs_layout(tmp_path: Path) -> None:
    """A local folder in place of the hub: the same loader, the same features."""
    task = replace(get_task("glue/rte"), hub=HubSource(str(tmp_path / "hub"), "default"))
    features = {
        "sentence1": TEXT,
        "sentence2": TEXT,
        "label": datasets.ClassLabel(names=["entailment", "not_entailment"]),
        "idx": datasets.Value("int32"),
    }
    local_hub(
        tmp_path / "hub", {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0], "idx": [0, 1]}, features
    )
    assert load_examples(task.fields, "hub", "train") == Examples((["a", "b"], ["c", "d"]), [1, 0])


@pytest.mark.usefixtures("no_network")
def test_the_hubs_test_splits_are_unlabelled(tmp_path: Path) -> None:
    task = replace(get_task("glue/sst2"), hub=HubSource(str(tmp_path / "hub"), "default"))
    local_hub(
        tmp_path / "hub",
        {"sentence": ["a"], "label": [-1]},
        {"sentence": TEXT, "label": datasets.ClassLabel(names=["negative", "positive"])},
    )
    assert load_examples(task.fields, "hub", "test") == Examples((["a"],), None)
    # The same values where labels are needed are an error, not a silent class.
    with pytest.raises(DataError, match=r"split train, row 1: label '-1' \(a number\)"):
        load_examples(task.fields, "hub", "train")


@pytest.mark.usefixtures("no_network")
def test_a_hub_copy_without_a_column_is_refused(tmp_path: Path) -> None:
    task = replace(get_task("glue/sst2"), hub=HubSource(str(tmp_path / "hub"), "default"))
    local_hub(tmp_path / "hub", {"text": ["a"], "label": [0]}, {"text": TEXT, "label": datasets.Value("int64")})
    with pytest.raises(DataError, match="no column 'sentence'; it has 'text', 'label'"):
        load_examples(task.fields, "hub", "train")


@pytest.mark.usefixtures("no_network")
def test_references_from_the_hub(tmp_path: Path) -> None:
    task = replace(get_task("e2e"), hub=HubSource(str(tmp_path / "hub"), "default"))
    features = {"meaning_representation": TEXT, "human_reference": TEXT}
    local_hub(tmp_path / "hub", {"meaning_representation": ["m", "m"], "human_reference": ["r", "s\r\n t"]}, features)
    assert load_examples(task.fields, "hub", "train") == Examples((["m", "m"], ["r", "s\r\n t"]), None)
    assert load_examples(task.fields, "hub", "test") == Examples((["m", "m"], ["r", "s\r\n t"]), None)


@pytest.mark.usefixtures("no_network")
def test_references_on_the_hub_may_be_absent_from_the_test_split_alone(tmp_path: Path) -> None:
    task = replace(get_task("e2e"), hub=HubSource(str(tmp_path / "hub"), "default"))
    local_hub(tmp_path / "hub", {"meaning_representation": ["m", ""]}, {"meaning_representation": TEXT})
    with pytest.raises(DataError, match="split train: no column 'human_reference'; it has 'meaning_representation'"):
        load_examples(task.fields, "hub", "train")
    with pytest.raises(DataError, match="split test, row 2: column 'meaning_representation' is empty"):
        load_examples(task.fields, "hub", "test")


def test_the_revision_of_the_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(*names: str, **keys: object) -> datasets.Dataset:
        asked.append((*names, keys))
        return datasets.Dataset.from_dict({"meaning_representation": ["m"], "human_reference": ["r"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_examples(get_task("e2e").fields, "hub", "validation") == Examples((["m"], ["r"]), None)
    assert asked == [("tuetschek/e2e_nlg", "default", {"split": "validation", "revision": "refs/convert/parquet"})]


def test_max_samples_takes_a_fixed_subset_in_order() -> None:
    task = get_task("glue/sst2")
    whole = load_examples(task.fields, "builtin", "train")
    part = load_examples(task.fields, "builtin", "train", max_samples=20, seed=5)
    assert part == whole.sample(20, 5) == load_examples(task.fields, "builtin", "train", max_samples=20, seed=5)
    assert len(part) == 20
    assert part != load_examples(task.fields, "builtin", "train", max_samples=20, seed=6)
    assert load_examples(task.fields, "builtin", "train", max_samples=10**9) == whole


def test_max_samples_of_references(tmp_path: Path) -> None:
    """Training rows are rows; elsewhere a source keeps all its references."""
    rows = [(f"m{row % 7}", f"r{row}") for row in range(28)]
    for name in ("trainset.csv", "devset.csv"):
        (tmp_path / name).write_text("mr,ref\n" + "".join(f"{source},{reference}\n" for source, reference in rows))
    load = partial(load_examples, get_task("e2e").fields, "e2e-csv", path=tmp_path, seed=3)
    assert load("train", max_samples=5) == load("train").sample(5, 3)
    assert len(load("train", max_samples=5)) == 5
    dev = load("validation", max_samples=3)
    kept = set(dev.texts[0])
    assert len(kept) == 3
    assert list(zip(*dev.texts, strict=True)) == [row for row in rows if row[0] in kept]
    assert load("validation", max_samples=7) == load("validation")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "hubb"}, r"data\.source: 'hubb' is none of 'hub', 'glue-tsv', 'files', 'builtin'"),
        ({"split": "dev"}, r"glue/sst2 has no split 'dev'; splits: 'train', 'validation', 'test'"),
        ({"max_samples": 0}, r"max_samples: 0 is below 1"),
        ({"path": "x"}, r"data\.path: not used by data\.source hub"),
        ({"source": "builtin", "path": "x"}, r"^data\.path: .*data\.source builtin"),
        (
            {"source": "glue-tsv", "path": "x", "columns": {"label": "y"}},
            r"^data\.columns: .*data\.source glue-tsv",
        ),
        ({"source": "builtin", "labels": ["a", "b"]}, r"^data\.labels: .*data\.source builtin"),
        ({"source": "e2e-csv", "path": "x"}, r"^data\.source: 'e2e-csv' .*glue/sst2"),
        ({"source": "glue-tsv"}, r"data\.path: missing; data\.source glue-tsv needs the folder"),
    ],
)
def test_arguments_that_cannot_be_followed(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_examples(get_task("glue/sst2").fields, **{"source": "hub", "split": "train", **keys})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"source": "glue-tsv", "path": "x"},
            r"^data\.source: 'glue-tsv' .*'hub', 'e2e-csv', 'files', 'builtin', .*e2e",
        ),
        ({"source": "e2e-csv"}, r"^data\.path: missing; data\.source e2e-csv "),
        (
            {"source": "e2e-csv", "path": "x", "columns": {"mr": "y"}},
            r"^data\.columns: .*data\.source e2e-csv",
        ),
        (
            {"source": "files", "path": "x", "labels": ["a"]},
            r"^data\.labels: 'a' .*e2e",
        ),
        (
            {"source": "e2e-csv", "path": "x", "split": "dev"},
            r"^split: e2e .*'dev'; .*'train', 'validation', 'test'",
        ),
    ],
)
def test_arguments_that_generation_cannot_follow(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_examples(get_task("e2e").fields, **{"split": "train", **keys})
