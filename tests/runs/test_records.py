from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from dora_cli.atomic import write_json, write_text
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.json_text import to_json
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


def test_json_is_strict_and_holds_plain_values_only():
    text = to_json(
        {
            "a": math.nan,
            "b": np.float32(0.5),
            "c": np.arange(3),
            "d": (1, math.inf),
            "e": Path("x"),
            "f": np.bool_(True),
            "g": "\u00e9",
        }
    )
    parsed = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert parsed == {"a": None, "b": 0.5, "c": [0, 1, 2], "d": [1, None], "e": "x", "f": True, "g": "\u00e9"}
    assert text.endswith("}\n")
    with pytest.raises(TypeError, match="object"):
        to_json({"a": object()})


def test_json_keeps_numbers_on_one_line_however_many():
    text = to_json({"layers": [{"name": "x" * 150, "scores": [0.123456789] * 200}]})
    assert json.loads(text)["layers"][0]["scores"] == [0.123456789] * 200
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize("value", [0.1, 1e-300, 1 / 3, 123456789.123456789, 5e-324])
def test_floats_survive_exactly(tmp_path: Path, value: float):
    write_json(tmp_path / "x.json", {"value": value})
    assert read_json(tmp_path / "x.json")["value"] == value


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"metrics\.json: No space left on device.*--output"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_a_place_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_json(tmp_path / "file" / "metrics.json", {})
    with pytest.raises(OutputError, match="cannot write"):
        LogFile(tmp_path / "file" / "log.jsonl")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_written_files_have_the_permissions_of_ordinary_files(tmp_path: Path):
    (tmp_path / "ordinary").write_text("")
    write_text(tmp_path / "record", "")
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def line(step: int, **more: object) -> dict[str, object]:
    return {"type": "train", "step": step, "phase": "final", "budget": 2, "live": 2, **more}


def test_log_lines_are_there_before_the_file_is_closed(tmp_path: Path):
    path = tmp_path / "run" / "log.jsonl"
    with LogFile(path) as log:
        log.write(line(1, loss=np.float64(0.5)))
        log.write(line(2, loss=math.nan))
        assert [json.loads(text) for text in path.read_text().splitlines()] == [line(1, loss=0.5), line(2, loss=None)]
    with LogFile(path) as log:
        log.write(line(3))
    assert len(path.read_text().splitlines()) == 3


def test_a_log_cut_off_within_a_line_goes_on_with_a_line_of_its_own(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st')
    with LogFile(path) as log:
        log.write(line(2))
    assert path.read_text() == f'{{"step": 1}}\n{{"st\n{json.dumps(line(2))}\n'


@pytest.mark.parametrize("kept", [0, 12])
def test_a_log_that_is_cut_back_goes_on_there(tmp_path: Path, kept: int):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    with LogFile(path, length=kept) as log:
        assert log.length() == kept
        log.write(line(3))
        assert log.length() == path.stat().st_size == kept + len(json.dumps(line(3))) + 1
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'[:kept] + json.dumps(line(3)) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b'{"schema_version": 1, "unit"', r"line 1, column 29"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"[1, 2]", r"the whole is \[1, 2\]"),
        (b'{"schema_version": 2}', "schema_version 2; this dora reads 1"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": -1}, r"layers\[3\]\.rank is -1: .*greater than or equal to 0"),
        ({"rank": 13}, r"layers\[3\]: rank 13 is above its start rank 12"),
        ({"rank": 2.0}, r"layers\[3\]\.rank is 2\.0"),
        ({"scores": [1.0]}, r"layers\[3\]: 1 scores for 12 components"),
        ({"shape": [768]}, r"layers\[3\]\.shape is \[768\]"),
        ({"stack": "middle"}, r"layers\[3\]\.stack is 'middle'"),
        ({"name": "bert.encoder.layer.0.attention.self.query"}, "listed twice"),
    ],
)
def test_every_layer_is_checked(change: dict[str, object], message: str):
    record = ranks(bert(1))
    record["layers"][3] = {**record["layers"][3], **change}
    with pytest.raises(CheckpointError, match=message):
        validate_ranks(record)


def test_ranks_must_add_up_to_the_live_components():
    record = ranks(bert(1))
    record["live_components"] += 1
    with pytest.raises(CheckpointError, match=r"live_components is 49, but the ranks of the layers add up to 48"):
        validate_ranks(record)


def test_metrics_may_be_undefined_but_not_absent():
    record = metrics_record(
        **{
            **{key: value for key, value in metrics().items() if key != "schema_version"},
            "metrics": {"pearson": math.nan},
            "last": {"pearson": 0.5},
        }
    )
    assert record["metrics"] == {"pearson": None}
    validate_metrics(record)
    del record["last"]
    with pytest.raises(CheckpointError, match=r"m\.json is damaged or was not written by dora: last is missing"):
        validate_metrics(record, "m.json")


def test_a_key_that_no_version_wrote_is_refused():
    """A version that adds one raises schema_version."""
    with pytest.raises(CheckpointError, match=r"m\.json .*: carbon is 1\.0: no key that this version of dora knows"):
        validate_metrics({**metrics(), "carbon": 1.0}, "m.json")


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


def test_json_holds_nothing_that_a_terminal_obeys():
    value = {"k\u2028\x9b": "\x1b\x7f\u202e\ud800"}
    assert json.loads(to_json(value)) == value
    assert to_json(value).rstrip("\n").isprintable()


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
        with pytest.raises(CheckpointError, match=rf"{tmp_path}/.* is no record of dora: "):
            read()


def test_a_log_of_one_endless_line_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("wb") as file:
        file.truncate(1 << 26)
    with pytest.raises(CheckpointError, match="line 1 has more than"):
        read_log(tmp_path / "log.jsonl")


def test_lines_of_a_log_that_are_no_json_are_passed_over(tmp_path: Path) -> None:
    entry = '{"type": "eval", "step": 1, "epoch": 1, "phase": "warmup", "metrics": {}, "note": "a\u2028b"}'
    (tmp_path / "log.jsonl").write_text(f"{'[' * 100_000}\n{'9' * 5000}\n{entry}\n{entry[:-1]}", encoding="utf-8")
    assert read_log(tmp_path / "log.jsonl") == [json.loads(entry)]


def test_nested_without_end_is_one_message(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"a":' * 900 + "1" + "}" * 900):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(CheckpointError, match="is damaged: nested more than"):
            RunRecords(tmp_path).read_metrics()


def test_what_a_killed_writer_has_left_goes_with_the_next_writing(tmp_path):
    for name in (
        ".page.html.123.tmp",
        ".page.html.tmp",
        ".page.html.mine.tmp",
        ".another-page.html.123.tmp",
        ".pageXhtml.123.tmp",
    ):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "page.html", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("page.html", ".page.html.tmp", ".page.html.mine.tmp", ".another-page.html.123.tmp", ".pageXhtml.123.tmp")
    }
