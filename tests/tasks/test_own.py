"""Classes and numbers of the user's own files, from finding them to predictions in the user's words and units."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dora_cli import evaluate, train
from dora_cli.assembly.data import load_data
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Examples
from dora_cli.data.builtin import generate
from dora_cli.data.sources.fields import HubSource
from dora_cli.errors import DataError, RecipeError
from dora_cli.library.prediction import predict_saved, write_predictions
from dora_cli.metrics.glue import compute_metrics
from dora_cli.metrics.labels import class_metrics, number_metrics
from dora_cli.recipe import Recipe, dump_recipe, parse_recipe
from dora_cli.reports.html.page import write_report
from dora_cli.runs.records.confusion import LONGEST_LABEL, MOST_CLASSES, ConfusionRecord
from dora_cli.tasks import get_task
from dora_cli.tasks.label import LabelTask
from dora_cli.tasks.own import CLASSIFICATION, REGRESSION
from dora_cli.training.listener import SilentListener
from tests.data.sources.conftest import no_network

__all__ = ["no_network"]

COLOURS = ("red", "green", "blue")


def reviews() -> list[str]:
    return generate("glue/sst2", "train").texts[0]


def write(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path) -> Any:
    """Makes a recipe over `tmp_path / data`."""

    def make(task: str, *overrides: str) -> Recipe:
        text = f"""
            task: {task}
            model: {{name: {tiny_model}}}
            data: {{source: files, path: {tmp_path / "data"}}}
            method: {{name: dora, rank: 2, prune_interval: 3, dropout: 0.0}}
            train: {{epochs: 4, batch_size: 16, learning_rate: 5.0e-3, device: cpu}}
        """
        return parse_recipe(text, overrides=overrides)

    return make


class Ears(SilentListener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_classes_are_found_in_a_stable_order(own: Any, tmp_path: Path) -> None:
    def labels(values: Sequence[str]) -> Any:
        write(tmp_path / "data" / "train.csv", ["text", "label"], [["a film", value] for value in values])
        recipe, task = resolve(own("classification"))
        assert task.labels == recipe.data.labels
        return task.labels

    assert labels(["red", "green", "red", "blue"]) == labels(["blue", "green", "red"]) == ("blue", "green", "red")
    assert labels(["10", "9", "2"]) == ("2", "9", "10")
    with pytest.raises(DataError, match="all have the label 'red'"):
        labels(["red", "red"])
    with pytest.raises(DataError, match=r"1,001 different labels.*task: regression"):
        labels([str(number) for number in range(MOST_CLASSES + 1)])
    with pytest.raises(DataError, match=r"label of 5,001 characters.*data\.columns"):
        labels(["red", "r" * (LONGEST_LABEL + 1)])


def test_listed_classes_have_the_bounds_of_those_that_are_found(own: Any, tmp_path: Path) -> None:
    """Which are those of the record: a run of more would end in an error when its first epoch is saved."""

    def resolved(labels: Sequence[str]) -> tuple[str, ...] | None:
        recipe = own("classification")
        data = recipe.data.model_copy(update={"labels": tuple(labels)})
        return resolve(recipe.model_copy(update={"data": data}))[1].labels

    write(tmp_path / "data" / "train.csv", ["text", "label"], [["a film", "0"], ["a film", "1"]])
    most = [str(number) for number in range(MOST_CLASSES)]
    ConfusionRecord(labels=list(resolved(most) or ()), counts=[[0] * MOST_CLASSES] * MOST_CLASSES)
    with pytest.raises(RecipeError, match=r"data\.labels: 1,001 labels"):
        resolved([*most, "one more"])
    ConfusionRecord(labels=list(resolved(["0", "1" * LONGEST_LABEL]) or ()), counts=[[0, 0], [0, 0]])
    with pytest.raises(RecipeError, match=r"data\.labels: a label of 5,001 characters"):
        resolved(["0", "1" * (LONGEST_LABEL + 1)])


def test_a_settled_recipe_needs_no_file(own: Any, tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.csv", ["review", "title", "stars"], [["a film", "b", "1"], ["a film", "b", "3"]])
    recipe, task = resolve(own("classification", "data.columns={text: review, text2: title, label: stars}"))
    assert task.text_columns == ("text", "text2")
    (tmp_path / "data" / "train.csv").unlink()
    again, same = resolve(parse_recipe(dump_recipe(recipe)))
    assert (again, same) == (recipe, task)


def test_a_second_text_is_read_where_there_is_one(own: Any, tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.csv", ["sentence1", "sentence2", "label"], [["a", "b", "1.5"], ["a", "b", "3.5"]])
    recipe, task = resolve(own("regression"))
    assert task.reads == 2
    assert recipe.data.scale == (2.5, 1.0)


def test_the_scale_is_that_of_the_numbers_that_are_learned(own: Any, tmp_path: Path) -> None:
    """Rows that are held out, left out for a gap, or cut off, have no part in it."""
    rows = [["a film", str(2**number)] for number in range(10)]
    write(tmp_path / "data" / "train.csv", ["text", "label"], [*rows, ["", "1000000"]])
    recipe, task = resolve(own("regression", "data.validation=0.3", "data.invalid=skip", "data.max_train_samples=5"))
    data = load_data(recipe, task)
    learned, held = (set(part.labels or ()) for part in (data.training, data.evaluated["validation"]))
    assert (len(learned), len(held), learned & held) == (5, 3, set())
    assert learned | held < {2.0**number for number in range(10)}
    assert recipe.data.scale == pytest.approx((statistics.fmean(learned), statistics.pstdev(learned)))


@pytest.mark.parametrize("by", ["text", "rows", "null"])
def test_what_is_held_out_of_the_training_split_has_no_part_in_the_scale(own: Any, tmp_path: Path, by: str) -> None:
    """However it is parted: each text stands there twice, with other numbers."""
    rows = [[f"film {number // 2}", str(2**number)] for number in range(40)]
    write(tmp_path / "data" / "train.csv", ["text", "label"], rows)
    write(tmp_path / "data" / "dev.csv", ["text", "label"], rows[:4])
    changes = ("eval.held_out=0.2", f"eval.held_out_by={by}", "data.max_train_samples=30")
    recipe, task = resolve(own("regression", *changes))
    data = load_data(recipe, task)
    learned, held = (list(part.labels or ()) for part in (data.training, data.evaluated["train-held-out"]))
    assert len(held) >= 5
    assert recipe.data.scale == pytest.approx((statistics.fmean(learned), statistics.pstdev(learned)))
    assert recipe.data.scale != pytest.approx((statistics.fmean(learned + held), statistics.pstdev(learned + held)))


def test_a_task_that_a_package_brings_keeps_its_own_source(own: Any) -> None:
    """Also one without official files, which is no task of the user's own data for that."""
    hub = HubSource("somebody/films", "default")
    brought = LabelTask(
        name="films",
        text_columns=("review",),
        splits={"train": 0, "validation": 0},
        eval_splits=("validation",),
        primary="macro_f1",
        label_names=("bad", "good"),
        metric="classes",
        hub=hub,
    )
    assert (brought.fields.hub, brought.fields.sources) == (hub, ("hub", "files"))
    assert brought.fields.texts == (("review", "sentence"),)
    recipe = own("classification", "data={source: hub}")
    assert not brought.problems(recipe)
    assert brought.settle(recipe) == (recipe, brought)
    split = SimpleNamespace(labels=np.array([0, 1]))
    found = brought.measure([np.array([2.0, 0.0]), np.array([1.0, 0.0])], split)  # type: ignore[arg-type]
    assert found.keys() == set(brought.scores)
    assert found["accuracy"] == 0.5


@pytest.mark.parametrize("labels", [(), ("data.labels=[a, b]",)])
def test_columns_that_name_one_text_mean_one(own: Any, tmp_path: Path, labels: Sequence[str]) -> None:
    """Whether or not the classes are listed too, which decides whether the file is looked at."""
    write(tmp_path / "data" / "train.csv", ["review", "text2", "label"], [["a film", "b", "a"], ["a film", "b", "b"]])
    _, task = resolve(own("classification", "data.columns={text: review}", *labels))
    assert task.text_columns == ("text",)
    _, task = resolve(own("classification", "data.columns={text: review, text2: text2}", *labels))
    assert task.text_columns == ("text", "text2")


@pytest.mark.parametrize(
    ("task", "change", "key"),
    [
        ("classification", "data={source: builtin}", "data.source"),
        ("classification", "data.scale=[0.0, 1.0]", "data.scale"),
        ("regression", "data.labels=[a, b]", "data.labels"),
        ("glue/sst2", "data.scale=[0.0, 1.0]", "data.scale"),
        ("regression", "train.label_smoothing=0.1", "train.label_smoothing"),
    ],
)
def test_what_means_nothing_to_the_task(own: Any, task: str, change: str, key: str) -> None:
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        resolve(own(task, change))


def test_auroc_is_for_two_classes(own: Any, tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.csv", ["text", "label"], [["a film", name] for name in COLOURS])
    with pytest.raises(RecipeError, match="no metric 'auroc'"):
        resolve(own("classification", "eval.metric=auroc"))
    resolve(own("classification", "eval.metric=auroc", "data.labels=[red, green]"))


def test_three_classes_of_ones_own(own: Any, tmp_path: Path) -> None:
    """The word that stands first in a review says its class; a tenth is held out, of every class its share."""
    texts = reviews()[:150]
    rows = [[f"{COLOURS[row % 3]} {text}", COLOURS[row % 3]] for row, text in enumerate(texts)]
    write(tmp_path / "data" / "train.csv", ["text", "label"], rows)
    listener = Ears()
    result = train(own("classification", "data.validation=0.2"), tmp_path / "run", listener=listener)
    metrics = result.metrics["metrics"]
    assert set(metrics) == {"accuracy", "macro_f1", "micro_f1", "matthews_correlation", "loss"}
    assert metrics["micro_f1"] == pytest.approx(metrics["accuracy"])
    assert sum("(data.validation)" in note for note in listener.notes) == 2
    baseline = result.metrics["baseline"]
    assert baseline["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert baseline["beaten"] is (metrics["accuracy"] > 1 / 3)
    found = evaluate(tmp_path / "run")
    assert found["identical"] is True
    assert found["splits"] == {"validation": 30}
    confusion = result.metrics["confusion"]
    assert found["confusion"] == confusion
    assert confusion["labels"] == sorted(COLOURS)
    assert [sum(row) for row in confusion["counts"]] == [10, 10, 10]
    right = sum(confusion["counts"][index][index] for index in range(3))
    assert right / 30 == pytest.approx(metrics["accuracy"])
    write_report([tmp_path / "run"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(f">as {colour}<" in page for colour in COLOURS)

    records = predict_saved(tmp_path / "run", split="validation")
    assert sum(record["prediction"] == record["label"] for record in records) / 30 == pytest.approx(metrics["accuracy"])
    assert {record["label"] for record in records} == set(COLOURS)
    assert list(records[0]["probabilities"]) == sorted(COLOURS)
    (tmp_path / "more.txt").write_text("red film\nblue film\n")
    write_predictions(tmp_path / "run", str(tmp_path / "out.jsonl"), file=tmp_path / "more.txt")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["red film", "blue film"]


def test_numbers_are_learned_standardised_and_told_in_their_units(own: Any, tmp_path: Path) -> None:
    """Prices around 5,000: unscaled, a model would need thousands of steps to get there."""
    texts = reviews()[:120]
    prices = [5000 + 100 * (len(text.split()) % 3) for text in texts]
    rows = list(zip(texts, prices, strict=True))
    write(tmp_path / "data" / "train.csv", ["text", "label"], rows[:90])
    write(tmp_path / "data" / "dev.csv", ["text", "label"], rows[90:])
    result = train(own("regression"), tmp_path / "run")
    metrics = result.metrics["metrics"]
    assert set(metrics) == {"pearson", "spearmanr", "rmse", "loss"}
    assert result.metrics["epochs"][0]["train_loss"] < 3  # in standard deviations, squared
    records = predict_saved(tmp_path / "run", split="validation")
    predicted, expected = (np.array([record[key] for record in records]) for key in ("prediction", "label"))
    assert expected.tolist() == [float(price) for _, price in rows[90:]]
    assert np.sqrt(np.mean((predicted - expected) ** 2)) == pytest.approx(metrics["rmse"], rel=1e-5)
    assert abs(predicted - 5100).max() < 500
    assert evaluate(tmp_path / "run")["identical"] is True


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1], [0, 2, 2, 1, 2, 3], [1, 1], [0, 0, 0, 1]])
def test_what_saying_one_class_of_all_is_worth(labels: list[int]) -> None:
    """Against the metrics of each such model."""
    names = tuple("abcd" if max(labels) > 1 else "ab")
    found = replace(CLASSIFICATION, label_names=names).baseline(Examples((["text"] * len(labels),), labels))
    said = [class_metrics(np.tile(row, (len(labels), 1)), labels) for row in np.eye(len(names))]
    best = {name: pytest.approx(max(one[name] for one in said)) for name in said[0]}
    # of all that say the same share of each class, the one with the data's shares has the least loss
    shares = np.bincount(labels)[labels] / len(labels)
    assert found == best | {"loss": pytest.approx(-np.log(shares).mean(), abs=1e-12)}


def test_what_saying_the_mean_of_all_is_worth() -> None:
    labels = [1.0, 2.5, 4.0, 7.0]
    found = REGRESSION.baseline(Examples((["text"] * 4,), labels))
    loss = {"loss": float(np.var(labels))}
    assert found == pytest.approx(number_metrics([float(np.mean(labels))] * 4, labels) | loss)
    scaled = replace(REGRESSION, scale=(1.0, 2.0)).baseline(Examples((["text"] * 4,), labels))
    assert scaled["loss"] == pytest.approx(loss["loss"] / 4)


@pytest.mark.parametrize("labels", [[0, 1, 1], [1, 0, 0, 0], [0, 0]])
def test_what_saying_one_class_of_a_benchmark_is_worth(labels: list[int]) -> None:
    task = get_task("glue/mrpc")
    said = [compute_metrics("accuracy_f1", np.full(len(labels), one), np.array(labels)) for one in (0, 1)]
    found = task.baseline(Examples((["a"] * len(labels), ["b"] * len(labels)), labels))
    best = {name: pytest.approx(max(one[name] for one in said)) for name in said[0]}
    assert {name: found[name] for name in best} == best


def test_a_dry_run_finds_the_classes_too(own: Any, tmp_path: Path) -> None:
    write(tmp_path / "data.csv", ["text", "label"], [["a film", name] for name in COLOURS * 10])
    done = dry_run(own("classification", f"data.path={tmp_path / 'data.csv'}", "data.validation=0.2"))
    assert done.recipe.data.labels == tuple(sorted(COLOURS))
    assert done.length.examples == 24


@pytest.mark.usefixtures("no_network")
def test_a_data_set_of_the_hub(own: Any, tmp_path: Path) -> None:
    """Read by the hub's library from a folder, as it lies on the hub: classes with names, splits under other names."""
    import datasets

    features = datasets.Features({"body": datasets.Value("string"), "topic": datasets.ClassLabel(names=["zoo", "art"])})
    for name, topics in (("train", [0, 1, 1, -1]), ("dev", [1, 0])):
        columns = {"body": [f"text {row}" for row in range(len(topics))], "topic": topics}
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "set" / f"{name}.parquet")
    changes = (f"data={{source: hub, name: {tmp_path / 'set'}, columns: {{text: body, label: topic}}, invalid: skip}}",)
    recipe, task = resolve(own("classification", *changes))
    assert task.labels == ("art", "zoo")
    data = load_data(recipe, task)
    assert data.training == Examples((["text 0", "text 1", "text 2"],), [1, 0, 0])
    assert data.evaluated["validation"] == Examples((["text 0", "text 1"],), [0, 1])
    assert resolve(parse_recipe(dump_recipe(recipe))) == (recipe, task)
    assert dry_run(own("classification", *changes)).length.examples == 3
    with pytest.raises(DataError, match=r"data\.validation: .* a split validation"):
        load_data(recipe.model_copy(update={"data": recipe.data.model_copy(update={"validation": 0.5})}), task)
    (tmp_path / "set" / "dev.parquet").unlink()
    with pytest.raises(DataError, match=r"data\.name: .* no split validation; it has 'train'; data\.validation"):
        load_data(recipe, task)


@pytest.mark.parametrize(
    ("task", "change", "key"),
    [
        ("classification", "data={source: hub}", "data.source"),
        ("glue/sst2", "data={source: hub, name: a/b}", "data.name"),
        ("classification", "data.name=a/b", "data.name"),
    ],
)
def test_a_data_set_that_nobody_reads(own: Any, task: str, change: str, key: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(key)):
        resolve(own(task, change))


@pytest.mark.usefixtures("no_network")
def test_a_data_set_out_of_reach(own: Any) -> None:
    with pytest.raises(DataError, match=r"data\.source hub: nobody/nothing, could not be loaded: .*"):
        resolve(own("classification", "data={source: hub, name: nobody/nothing}"))
