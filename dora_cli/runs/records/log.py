"""The lines of log.jsonl.

They carry no version: a key that is not known is a mistake where a line is written, and passed over where one is read.
Keys with a default are those that older logs may lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from dora_cli.runs.records.fields import Count, Metrics, Name, Record, Seconds, written
from dora_cli.runs.records.metrics import EpochRecord
from dora_cli.runs.records.rounds import RoundRecord


class LineTimingRecord(Record):
    """Seconds of training so far, and the speed since the last line."""

    seconds: Seconds
    steps_per_second: Annotated[float, Field(ge=0)]
    samples_per_second: Annotated[float, Field(ge=0)]


class TrainLine(Record):
    """A logged step; numbers are None where they were not finite."""

    FILE: ClassVar[str] = "a line of log.jsonl"

    type: Literal["train"]
    step: Count
    epoch: Count | None = None
    phase: Name
    budget: Count
    live: Count
    loss: float | None = None
    regulariser: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    timing: LineTimingRecord | None = None


class EvalLine(EpochRecord):
    """An evaluation: an epoch as in metrics.json."""

    FILE: ClassVar[str] = "a line of log.jsonl"

    type: Literal["eval"]
    train_loss: float | None = None
    metrics: Metrics


class RoundLine(RoundRecord):
    """The end of a round of federated training: a round as in metrics.json."""

    FILE: ClassVar[str] = "a line of log.jsonl"

    type: Literal["round"]


_LINES: Mapping[Any, type[Record]] = {"train": TrainLine, "eval": EvalLine, "round": RoundLine}


def written_line(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`entry` as plain values, to be written; an AssertionError where it does not keep to the schema of its type."""
    assert entry.get("type") in _LINES, f"a line of log.jsonl would be of no known type: {entry.get('type')!r}"
    return written(_LINES[entry["type"]], entry)


def is_line(entry: Any) -> bool:
    """Whether what was read from a log is a line that can be relied on, but for keys that are not known."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    model = _LINES.get(kind) if isinstance(kind, str) else None
    if model is None:
        return False
    try:
        model.model_validate(entry)
    except ValidationError as error:
        return all(problem["type"] == "extra_forbidden" for problem in error.errors(include_url=False))
    return True
