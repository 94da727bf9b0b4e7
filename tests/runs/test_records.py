"""The records of a run folder: how they are made, and what is said of those that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dora_cli.atomic import write_json
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.reports.curves import read_log
from dora_cli.runs.log import LogFile
from dora_cli.runs.reading import read_json
from dora_cli.runs.records.metrics import metrics_record, validate_metrics
from dora_cli.runs.records.ranks import ranks_record, validate_ranks
from dora_cli.runs.run_folder import RunRecords
from tests.reports.examples import FakeAllocation, bert, metrics, ranks


def test_ranks_record_has_the_keys_of_the_design_in_order():
    record = ranks(bert(2))
    assert list(record) == [
        "schema_version",
        "unit",
        "start_rank",
        "target_rank",
        "live_components",
        "layers",
        "phases",
        "history",
    ]
    assert list(record["layers"][0]) == [
        "name",
        "stack",
        "block",
        "attention",
        "projection",
        "group",
        "shape",
        "start_rank",
        "rank",
        "scores",
    ]
    assert list(record["history"][0]) == ["step", "phase", "budget", "live"]
    assert record["schema_version"] == 1
    assert record["layers"][5]["name"] == "bert.encoder.layer.0.output.dense"
    assert record["layers"][5]["shape"] == [768, 3072]
    assert record["layers"][5]["attention"] is None


def test_metrics_record_has_the_keys_of_the_design_in_order():
    record = metrics()
    assert list(record) == [
        "schema_version", "task", "model", "method", "seed", "metrics", "last", "best_epoch", "selection", "epochs",
        "budget", "timing",
    ]  # fmt: skip
    assert list(record["epochs"][0]) == ["epoch", "step", "phase", "train_loss", "metrics"]
    assert set(record["budget"]) == {
        "start_components", "final_components", "live_components",
        "trainable_parameters_start", "trainable_parameters_final", "adapter_parameters_final",
    }  # fmt: skip
    assert set(record["timing"]) == {"train_seconds", "samples_per_second", "steps_per_second", "peak_memory_bytes"}


def test_ranks_record_matches_allocations_by_name_and_keeps_model_order():
    projections = [projection for projection, _ in bert(1)]
    allocations = [FakeAllocation(p.name, (4, 4), 3, i % 4, None) for i, p in enumerate(projections)]
    record = ranks_record(
        projections,
        allocations[::-1],
        unit="component",
        start_rank=3,
        target_rank=2,
        live_components=sum(a.rank for a in allocations),
        history=[],
    )
    assert [layer["name"] for layer in record["layers"]] == [p.name for p in projections]
    assert [layer["rank"] for layer in record["layers"]] == [a.rank for a in allocations]


def test_ranks_record_of_a_method_that_adapts_nothing():
    record = ranks_record([], [], unit="component", start_rank=None, target_rank=None, live_components=0, history=[])
    assert record["layers"] == []
    assert validate_ranks(record).live_components == 0


def test_ranks_record_refuses_a_forgotten_projection():
    projections = [projection for projection, _ in bert(1)]
    with pytest.raises(AssertionError, match="no allocation"):
        ranks_record(
            projections,
            [FakeAllocation(projections[0].name, (4, 4), 3, 3)],
            unit="component",
            start_rank=3,
            target_rank=2,
            live_components=3,
            history=[],
        )


def test_a_written_record_reads_back_equal(tmp_path: Path):
    run = RunRecords(tmp_path / "new" / "run")
    write_json(run.ranks, ranks(bert(2)))
    write_json(run.metrics, metrics())
    assert run.read_ranks() == ranks(bert(2))
    assert run.read_metrics() == metrics()
    assert sorted(path.name for path in run.folder.iterdir()) == ["metrics.json", "ranks.json"]


def test_a_place_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_json(tmp_path / "file" / "metrics.json", {})
    with pytest.raises(OutputError, match="cannot write"):
        LogFile(tmp_path / "file" / "log.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b'{"schema_version": 1, "unit"', r"line 1, column 29"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"[1, 2]", r"the whole is \[1, 2\]"),
        (b'{"schema_version": 2}', r"schema_version 2; .* 1\b"),
        (b'{"schema_version": 1, "foreign": true}', r"unit is missing; .*; and \d more"),
    ],
)
def test_damaged_and_foreign_files_are_refused_with_the_place(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "ranks.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        RunRecords(tmp_path).read_ranks()
    assert str(path) in str(caught.value)


def test_an_absent_record_says_which_folder_is_meant(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no metrics\.json in .*not finished.*--output"):
        RunRecords(tmp_path).read_metrics()


def test_seed_runs_are_ordered_by_seed(tmp_path: Path):
    for name in ("seed-10", "seed-2", "seed-x", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").write_text("a file")
    assert [run.folder.name for run in RunRecords(tmp_path).seed_runs()] == ["seed-2", "seed-10"]


@pytest.mark.parametrize("name", ["", "\x1b[2J", "a\nb", "\x9b31m", "\u202eabc", "\u2028", "x" * 301])
@pytest.mark.parametrize("key", ["task", "model", "method", "selection", "metric", "metric of an epoch", "phase"])
def test_names_are_checked_when_they_are_read(key: str, name: str):
    record = metrics()
    if key == "metric":
        record["metrics"][name] = 1.0
    elif key == "metric of an epoch":
        record["epochs"][0]["metrics"][name] = 1.0
    elif key == "phase":
        record["epochs"][0]["phase"] = name
    else:
        record[key] = name if key != "model" else name * 20
    with pytest.raises(CheckpointError) as refused:
        validate_metrics(record)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_names_in_any_language_are_names():
    record = metrics()
    record["metrics"]["pr\u00e9cision \u0628 \U0001f469\u200d\U0001f52c"] = 1.0
    validate_metrics(record)


def test_a_record_has_no_end_of_metrics():
    record = metrics()
    record["last"] = {f"m{number}": 0.0 for number in range(101)}
    with pytest.raises(CheckpointError, match="at most 100"):
        validate_metrics(record)


def test_a_folder_of_any_name_can_be_recorded():
    record = metrics_record(
        **{key: value for key, value in metrics().items() if key != "schema_version"} | {"model": "/a\nb/\x1b[2J"}
    )
    assert record["model"] == r"/a\nb/\x1b[2J"


def put_in_place(path: Path, what: str) -> None:
    """A pipe that nobody writes to, a device without an end, a folder, or 3 GB that take no place on the disk."""
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(3 << 30)


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "3 GB"])
def test_what_is_no_record_is_not_read(what: str, tmp_path: Path) -> None:
    run = RunRecords(tmp_path)
    for path in (run.metrics, run.ranks, run.log):
        put_in_place(path, what)
    for read in (run.read_metrics, run.read_ranks, lambda: read_json(run.metrics), lambda: read_log(run.log)):
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/\S+ is no record "):
            read()


def test_nested_without_end_is_one_message(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"a":' * 900 + "1" + "}" * 900):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"metrics\.json is damaged: nested "):
            RunRecords(tmp_path).read_metrics()
