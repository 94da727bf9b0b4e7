"""How often a class was taken for another: part of what a run and an evaluation write down."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dora_cli.runs.records.fields import Count, Record

MOST_CLASSES = 1000
"""More different labels than a head is made for: numbers, or the wrong column."""
LONGEST_LABEL = 5000
"""Characters of a class's name: more are a text, from the wrong column."""


class ConfusionRecord(Record):
    """The confusion matrix of a split.

    Attributes:
        labels: names of the classes.
        counts: ``counts[i][j]`` rows of class `i` were taken for class `j`.
    """

    labels: Annotated[
        list[Annotated[str, Field(max_length=LONGEST_LABEL)]], Field(min_length=2, max_length=MOST_CLASSES)
    ]
    counts: list[list[Count]]

    @model_validator(mode="after")
    def _square(self) -> ConfusionRecord:
        if [len(row) for row in self.counts] != [len(self.labels)] * len(self.labels):
            raise ValueError("counts must have a row and a column for each label")
        return self
