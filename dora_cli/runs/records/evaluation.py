"""What ``dora eval --output`` writes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dora_cli.runs.records.confusion import ConfusionRecord
from dora_cli.runs.records.fields import Count, Fact, Metrics, Name, Record


class EvaluationRecord(Record):
    """One evaluation of saved weights.

    Attributes:
        model: of the base model, a name or a folder.
        checkpoint: the folder of the weights.
        step: after which they were taken.
        epoch: likewise.
        splits: the number of examples of each split.
        recorded: what the run itself wrote down of these weights; absent where that cannot be compared.
        identical: whether `metrics` are the same; absent likewise.
        confusion: where the classes are the user's own.
    """

    FILE: ClassVar[str] = "the record of an evaluation"

    schema_version: Literal[1]
    task: Name
    model: Fact
    method: Name
    checkpoint: Fact
    step: Count
    epoch: Count
    splits: Annotated[dict[Name, Count], Field(max_length=100)]
    metrics: Metrics
    recorded: Metrics | None = None
    identical: bool | None = None
    confusion: ConfusionRecord | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> EvaluationRecord:
        if (self.recorded is None) != (self.identical is None):
            raise ValueError("recorded and identical must both be given or both be absent")
        return self
