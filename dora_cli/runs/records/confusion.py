"""How often a class was taken for another: part of what a run and an evaluation write down."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dora_cli.runs.records.fields import Count, Fact, Record


class ConfusionRecord(Record):
    """The confusion matrix of a split.

    Attributes:
        labels: names of the classes.
        counts: ``counts[i][j]`` rows of class `i` were taken for class `j`.
    """

    labels: Annotated[list[Fact], Field(min_length=2, max_length=1000)]
    counts: list[list[Count]]

    @model_validator(mode="after")
    def _square(self) -> ConfusionRecord:
        if [len(row) for row in self.counts] != [len(self.labels)] * len(self.labels):
            raise ValueError("counts must have a row and a column for each label")
        return self
