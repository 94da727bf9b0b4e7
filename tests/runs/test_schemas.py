"""Every record is checked twice: a fault of ours is found where it is written, anybody's where it is read."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.runs.log import LogFile
from dora_cli.runs.records.adapter import AdapterRecord
from dora_cli.runs.records.checkpoint import ProgressRecord, StateRecord
from dora_cli.runs.records.environment import EnvironmentRecord
from dora_cli.runs.records.evaluation import EvaluationRecord
from dora_cli.runs.records.export import ExportRecord, UnfinishedExportRecord
from dora_cli.runs.records.fields import Record, validated, written
from dora_cli.runs.records.log import EvalLine, RoundLine, TrainLine, is_line, written_line
from dora_cli.runs.records.manifest import ManifestRecord
from dora_cli.runs.records.metrics import MetricsRecord
from dora_cli.runs.records.ranks import RanksRecord
from dora_cli.runs.records.summary import SummaryRecord, seeds_summary
from dora_cli.runs.run_folder import RunRecords
from tests.export.test_folder import EXPORT
from tests.reports.examples import bert, environment, metrics, parts, ranks, rounds

STORED = Path(__file__).parent / "stored"
CHECKPOINT = STORED / "interrupted" / "checkpoints" / "step-7"


def stored(path: str) -> Any:
    return json.loads((STORED / path).read_text())


RECORDS: dict[type[Record], Callable[[], dict[str, Any]]] = {
    RanksRecord: lambda: ranks(bert(1)),
    MetricsRecord: lambda: metrics(rounds=rounds(2), clients=parts()),
    EnvironmentRecord: environment,
    SummaryRecord: lambda: seeds_summary([metrics(seed=1), metrics(seed=2)]),
    StateRecord: lambda: stored("finished/adapter/state.json"),
    ProgressRecord: lambda: json.loads((CHECKPOINT / "progress.json").read_text()),
    ManifestRecord: lambda: json.loads((CHECKPOINT / "manifest.json").read_text()),
    AdapterRecord: lambda: stored("saved/adapter.json"),
    ExportRecord: lambda: {"schema_version": 1, **EXPORT, "files": {"README.md": 12}},
    UnfinishedExportRecord: lambda: {"schema_version": 1, "unfinished": True, "files": {"README.md": None}},
    EvaluationRecord: lambda: {
        "schema_version": 1,
        "task": "glue/sst2",
        "model": "m",
        "method": "dora",
        "checkpoint": "run/adapter",
        "step": 9,
        "epoch": 3,
        "splits": {"validation": 40},
        "metrics": {"accuracy": 0.5},
    },
    TrainLine: lambda: {"type": "train", "step": 1, "phase": "final", "budget": 2, "live": 2, "loss": 0.5},
    EvalLine: lambda: {"type": "eval", "epoch": 1, "step": 2, "phase": "final", "train_loss": 1.0, "metrics": {}},
    RoundLine: lambda: {"type": "round", **rounds(1)[0]},
}
every = pytest.mark.parametrize("model", RECORDS, ids=lambda model: model.__name__)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a record that hold no others; of a list its first entry's."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return leaves(value[0], (*path, 0))
    return [path]


def changed(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return record


@every
def test_a_whole_record_is_written_and_read(model: type[Record]) -> None:
    record = RECORDS[model]()
    assert written(model, record) == record
    assert validated(model, record, "place") == model.model_validate(record)


@every
def test_another_type_is_found_wherever_it_stands(model: type[Record]) -> None:
    """But in the configuration of a base model, which is not ours."""
    record = RECORDS[model]()
    for path in leaves(record):
        if path[:2] == ("base", "config"):
            continue
        wrong = changed(record, path, {"of": "another type"})
        with pytest.raises(AssertionError, match=f"^{re.escape(model.FILE)} "):
            written(model, wrong)
        with pytest.raises(CheckpointError, match=r"^place (is damaged|has schema_version)"):
            validated(model, wrong, "place")


@every
def test_a_key_that_is_not_known_is_found_with_its_value(model: type[Record]) -> None:
    record = {**RECORDS[model](), "carbon": 1.5}
    with pytest.raises(AssertionError, match="carbon is"):
        written(model, record)
    with pytest.raises(CheckpointError, match=r"^place .* carbon is 1\.5"):
        validated(model, record, "place")


@every
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_none_to_a_reader(model: type[Record], value: float) -> None:
    """JSON has none; Python's parser would take the word. Undefined losses and metrics of older checkpoints apart."""
    record = RECORDS[model]()
    undefined = {"metrics", "train_loss"} if model in (StateRecord, ProgressRecord) else set()
    for path in leaves(record):
        if path[:2] == ("base", "config") or undefined & set(path):
            continue
        with pytest.raises(CheckpointError):
            validated(model, changed(record, path, value), "place")


@every
def test_a_later_version_is_named(model: type[Record]) -> None:
    record = RECORDS[model]()
    if "schema_version" not in record:
        pytest.skip("lines of a log have none")
    with pytest.raises(CheckpointError, match="schema_version 2"):
        validated(model, {**record, "schema_version": 2}, "place")


def test_what_is_undefined_is_written_as_null() -> None:
    assert written(MetricsRecord, metrics(metrics={"pearson": math.nan}))["metrics"] == {"pearson": None}
    with pytest.raises(AssertionError, match=r"metrics\.json .*timing\.train_seconds is None"):
        written(MetricsRecord, {**metrics(), "timing": {**metrics()["timing"], "train_seconds": math.inf}})


def test_checkpoints_of_older_versions_may_hold_nan_where_nothing_is_defined() -> None:
    progress = RECORDS[ProgressRecord]()
    progress["at"]["train_loss"] = math.nan
    progress["epochs"][0] |= {"train_loss": math.nan, "metrics": {"pearson": math.nan}}
    record = validated(ProgressRecord, progress, "place")
    assert (record.at.train_loss, record.epochs[0].train_loss) == (None, None)
    assert record.epochs[0].metrics == {"pearson": None}


@pytest.mark.parametrize("name", ["metrics", "ranks", "environment", "summary"])
def test_a_run_folder_writes_what_it_reads(name: str, tmp_path: Path) -> None:
    run = RunRecords(tmp_path)
    models = {"metrics": MetricsRecord, "ranks": RanksRecord, "environment": EnvironmentRecord,
              "summary": SummaryRecord}  # fmt: skip
    record = RECORDS[models[name]]()
    write, read = getattr(run, f"write_{name}"), getattr(run, f"read_{name}")
    write(record)
    assert read() == record
    with pytest.raises(AssertionError):
        write({**record, "carbon": 1})
    assert read() == record, "what was there stays"
    path: Path = getattr(run, name)
    path.write_text(json.dumps({**record, "carbon": 1}))
    with pytest.raises(CheckpointError, match=rf"{name}\.json .*carbon is 1"):
        read()


def test_a_summary_has_one_entry_for_each_seed() -> None:
    summary = RECORDS[SummaryRecord]()
    summary["best_epochs"].pop()
    with pytest.raises(CheckpointError, match="2 seeds"):
        validated(SummaryRecord, summary, "place")


def test_only_known_lines_are_written_and_what_can_be_relied_on_is_read(tmp_path: Path) -> None:
    line = RECORDS[TrainLine]()
    with LogFile(tmp_path / "log.jsonl") as log:
        log.write(line)
        for wrong in ({**line, "type": "other"}, {**line, "carbon": 1}, {**line, "step": -1}):
            with pytest.raises(AssertionError):
                log.write(wrong)
    assert [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()] == [line]
    assert written_line({**line, "loss": math.nan})["loss"] is None
    assert is_line({**line, "carbon": 1}), "lines have no version: a later one may say more"
    assert not any(map(is_line, ({**line, "step": -1}, {"type": []}, {"type": "other"}, [], None)))
