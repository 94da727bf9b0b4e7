"""What a model would come to that says the same of every example: part of what a run writes down."""

from __future__ import annotations

from dora_cli.runs.records.fields import Metrics, Name, Record


class BaselineRecord(Record):
    """The commonest class, or the mean, said of all examples that the run evaluates.

    Attributes:
        metrics: what that is worth.
        metric: by which the run selects.
        beaten: whether the selected weights are better by it.
    """

    metrics: Metrics
    metric: Name
    beaten: bool
