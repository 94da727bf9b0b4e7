"""The layouts of metrics.json and ranks.json, schema version 1.

The builders in `records` write them and every reader checks against them, so that what reaches a table is whole. Keys
beyond these are let through: a later version of the same schema may add some, never change or remove one.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dora_cli.printable import is_plain

SCHEMA_VERSION = 1

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""What a float holds exactly, so that sums and shares of counts are numbers too."""


def _printable(text: str) -> str:
    if not is_plain(text):
        raise ValueError(f"{text[:40]!r} holds characters that cannot be printed")
    return text


Name = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
"""A name that tables show: one line, no control characters, which a terminal would obey, and no longer than any name
is.
"""
Place = Annotated[str, Field(min_length=1, max_length=5000), AfterValidator(_printable)]
"""A name that may be the path of a folder."""
Metrics = Annotated[dict[Name, float | None], Field(max_length=100)]
"""Metric name to value; None where a metric is undefined (JSON has no NaN)."""


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class LayerRecord(_Record):
    """One projection in ranks.json. `scores` are by original component, one for each of `start_rank`, or None."""

    name: Name
    stack: Literal["encoder", "decoder"]
    block: Count
    attention: Literal["self", "cross"] | None
    projection: Name
    group: Literal["attention", "ffn"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    start_rank: Count
    rank: Count
    scores: list[float | None] | None

    @model_validator(mode="after")
    def _consistent(self) -> LayerRecord:
        if self.rank > self.start_rank:
            raise ValueError(f"rank {self.rank} is above its start rank {self.start_rank}")
        if self.scores is not None and len(self.scores) != self.start_rank:
            raise ValueError(f"{len(self.scores)} scores for {self.start_rank} components")
        return self


class HistoryRecord(_Record):
    """The budget and the live components after `step`."""

    step: Count
    phase: Name
    budget: Count
    live: Count


class PhaseRecord(_Record):
    """A phase of the run and the steps that belong to it."""

    name: Name
    first: Annotated[Count, Field(ge=1)]
    last: Count


class RanksRecord(_Record):
    """ranks.json. `start_rank` and `target_rank` are per projection on average; None for a method without ranks.

    Older runs have no `phases`, and events in their `history` that prune nothing.
    """

    schema_version: Literal[1]
    unit: Name
    start_rank: Count | None
    target_rank: Count | None
    live_components: Count
    layers: list[LayerRecord]
    phases: list[PhaseRecord] = []
    history: list[HistoryRecord]

    @model_validator(mode="after")
    def _consistent(self) -> RanksRecord:
        total = sum(layer.rank for layer in self.layers)
        if total != self.live_components:
            raise ValueError(
                f"live_components is {self.live_components}, but the ranks of the layers add up to {total}"
            )
        twice = [name for name, count in Counter(layer.name for layer in self.layers).items() if count > 1]
        if twice:
            raise ValueError(f"layer {twice[0]} is listed twice")
        return self


class EpochRecord(_Record):
    """One evaluation. `step` is the optimiser step it followed."""

    epoch: Count
    step: Count
    phase: Name
    train_loss: float | None
    metrics: Metrics


class BudgetRecord(_Record):
    """Components and parameters.

    Adapter parameters count the factors A and B of live components, without gates and head.
    """

    start_components: Count
    final_components: Count
    live_components: Count
    trainable_parameters_start: Count
    trainable_parameters_final: Count
    adapter_parameters_final: Count


class TimingRecord(_Record):
    """Speed of training, evaluations apart.

    `peak_memory_bytes` is the device's on CUDA, the process's on the CPU; None if unknown.
    """

    train_seconds: float
    samples_per_second: float | None
    steps_per_second: float | None
    peak_memory_bytes: Count | None


class MetricsRecord(_Record):
    """metrics.json. `metrics` are of the selected epoch, `last` of the last one."""

    schema_version: Literal[1]
    task: Name
    model: Place
    method: Name
    seed: int
    metrics: Metrics
    last: Metrics
    best_epoch: Count | None
    selection: Name
    epochs: list[EpochRecord]
    budget: BudgetRecord
    timing: TimingRecord
