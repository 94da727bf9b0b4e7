"""metrics.json: what a run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from dora_cli.printable import shown
from dora_cli.runs.records.baseline import BaselineRecord
from dora_cli.runs.records.confusion import ConfusionRecord
from dora_cli.runs.records.fields import (
    SCHEMA_VERSION,
    Count,
    Metrics,
    Name,
    Place,
    Record,
    Seconds,
    Share,
    validated,
    written,
)
from dora_cli.runs.records.rounds import PartRecord, RoundRecord, check_ascending


class EpochRecord(Record):
    """One evaluation. `step` is the optimiser step it followed, `real_tokens` what part of the tokens that the epoch's
    training computed was real; the log, older runs and federated ones do not have that.
    """

    epoch: Count
    step: Count
    phase: Name
    train_loss: float | None
    metrics: Metrics
    real_tokens: Share | None = None


class BudgetRecord(Record):
    """Components and parameters.

    Adapter parameters count the factors A and B of live components, without gates and head; `adapter_bytes` is all that
    a finished adapter stores beside the head, which older runs did not count. `final_components` is the budget, None
    for a method that has none, or one that counts parameters.
    """

    start_components: Count
    final_components: Count | None
    live_components: Count
    trainable_parameters_start: Count
    trainable_parameters_final: Count
    adapter_parameters_final: Count
    adapter_bytes: Count | None = None


class TimingRecord(Record):
    """Speed of training, evaluations apart.

    `peak_memory_bytes` is the device's on CUDA, the process's on the CPU; None if unknown. `decoding_seconds` is there
    only where the finished model wrote outputs; older runs have neither `evaluation_seconds` nor `saving_seconds`.
    `fused` says whether the last steps ran through compiled blocks, `packed` whether on texts in one row; older
    runs did neither.
    """

    train_seconds: Seconds
    evaluation_seconds: Seconds | None = None
    saving_seconds: Seconds | None = None
    decoding_seconds: Seconds | None = None
    samples_per_second: float | None
    steps_per_second: float | None
    peak_memory_bytes: Count | None
    fused: bool = False
    packed: bool = False


class RealTokensRecord(Record):
    """What part of the tokens that a run computed was real, the rest being padding: in its training, and in each of its
    evaluations.
    """

    training: Share
    evaluation: Share


class MetricsRecord(Record):
    """metrics.json. `metrics` are of the selected epoch, `last` of the last one.

    `confusion` is of the selected epoch, where the classes are the user's own; `baseline` is there where saying the
    same of every example means something; `rounds` and `clients` are there of a federated run, `real_tokens` of any
    other that was not made by an older version; `averaged_steps` says of how many steps the selected weights are the
    mean, where weights are averaged.
    """

    FILE: ClassVar[str] = "metrics.json"

    schema_version: Literal[1]
    task: Name
    model: Place
    method: Name
    seed: Count
    metrics: Metrics
    last: Metrics
    best_epoch: Count | None
    selection: Name
    epochs: list[EpochRecord]
    budget: BudgetRecord
    timing: TimingRecord
    real_tokens: RealTokensRecord | None = None
    confusion: ConfusionRecord | None = None
    baseline: BaselineRecord | None = None
    rounds: list[RoundRecord] | None = None
    clients: list[PartRecord] | None = None
    averaged_steps: Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> MetricsRecord:
        check_ascending([one.round for one in self.rounds or ()], "rounds")
        check_ascending([one.client for one in self.clients or ()], "clients")
        return self


def validate_metrics(record: Any, source: Path | str = "metrics.json") -> MetricsRecord:
    """The checked record. Raises CheckpointError naming `source`, the key, the value and what was expected."""
    return validated(MetricsRecord, record, source)


def metrics_record(
    *,
    task: str,
    model: str,
    method: str,
    seed: int,
    metrics: Mapping[str, float | None],
    last: Mapping[str, float | None],
    best_epoch: int | None,
    selection: str,
    epochs: Sequence[Mapping[str, Any]],
    budget: Mapping[str, int | None],
    timing: Mapping[str, float | int | None],
    real_tokens: Mapping[str, float] | None = None,
    confusion: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
    rounds: Sequence[Mapping[str, Any]] | None = None,
    clients: Sequence[Mapping[str, Any]] | None = None,
    averaged_steps: int | None = None,
) -> dict[str, Any]:
    """The content of metrics.json. See `MetricsRecord` for the keys of what is a mapping, or a list of them."""
    return written(
        MetricsRecord,
        {
            "schema_version": SCHEMA_VERSION,
            "task": task,
            "model": shown(model, 4096),  # a folder may be called anything
            "method": method,
            "seed": seed,
            "metrics": metrics,
            "last": last,
            "best_epoch": best_epoch,
            "selection": selection,
            "epochs": epochs,
            "budget": budget,
            "timing": timing,
            **({} if real_tokens is None else {"real_tokens": real_tokens}),
            **({} if confusion is None else {"confusion": confusion}),
            **({} if baseline is None else {"baseline": baseline}),
            **({} if rounds is None else {"rounds": rounds}),
            **({} if clients is None else {"clients": clients}),
            **({} if averaged_steps is None else {"averaged_steps": averaged_steps}),
        },
    )
