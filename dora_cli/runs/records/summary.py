"""summary.json: the statistics over runs of one recipe that differ in their seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from statistics import mean, stdev
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dora_cli.errors import CheckpointError
from dora_cli.runs.records.fields import SCHEMA_VERSION, Count, Name, Place, Record, written
from dora_cli.runs.records.metrics import MetricsRecord, validate_metrics


class SpreadRecord(Record):
    """A number over several runs, in the order of the seeds; `sd` is the sample standard deviation (n - 1)."""

    mean: float | None
    sd: float | None
    values: list[float | None]


class MetricSpreadRecord(Record):
    """A metric of the selected epochs and of the last ones."""

    best: SpreadRecord
    last: SpreadRecord


class BudgetSpreadRecord(Record):
    """Components and parameters."""

    live_components: SpreadRecord
    adapter_parameters_final: SpreadRecord


class TimingSpreadRecord(Record):
    """Time and memory."""

    train_seconds: SpreadRecord
    peak_memory_bytes: SpreadRecord


class SummaryRecord(Record):
    """summary.json: one entry of every list for each of `seeds`."""

    FILE: ClassVar[str] = "summary.json"

    schema_version: Literal[1]
    task: Name
    model: Place
    method: Name
    selection: Name
    seeds: Annotated[list[Count], Field(min_length=1)]
    metrics: Annotated[dict[Name, MetricSpreadRecord], Field(max_length=100)]
    best_epochs: list[Count | None]
    budget: BudgetSpreadRecord
    timing: TimingSpreadRecord

    @model_validator(mode="after")
    def _one_for_each_seed(self) -> SummaryRecord:
        spreads = [
            *(spread for metric in self.metrics.values() for spread in (metric.best, metric.last)),
            *(self.budget.live_components, self.budget.adapter_parameters_final),
            *(self.timing.train_seconds, self.timing.peak_memory_bytes),
        ]
        lengths = {len(self.best_epochs), *(len(spread.values) for spread in spreads)}
        if lengths != {len(self.seeds)}:
            raise ValueError(f"there are {len(self.seeds)} seeds, but a list has not as many entries")
        return self


def seeds_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of summary.json: statistics over runs of one recipe that differ in their seed.

    Every statistic is ``mean``, ``sd`` (n - 1; None for one run) and ``values``, in the order of ``seeds``. A value
    that is undefined in a run makes the mean undefined.

    Args:
        records: contents of metrics.json, in the order of the seeds; at least one.

    Returns:
        ``schema_version, task, model, method, seeds, selection``; ``metrics``: metric -> ``best`` (of the selected
        epoch) and ``last``; ``best_epochs``; ``budget`` (``live_components, adapter_parameters_final``) and ``timing``.

    Raises:
        CheckpointError: a record is damaged, two share a seed, or they are not runs of one recipe.
    """
    assert records, "no run to summarise"
    runs = [validate_metrics(record, f"metrics.json of run {index}") for index, record in enumerate(records, start=1)]
    first = runs[0]
    for run in runs[1:]:
        for key in ("task", "model", "method", "selection"):
            one, other = getattr(first, key), getattr(run, key)
            if one != other:
                raise CheckpointError(
                    f"seeds {first.seed} and {run.seed} are not runs of one recipe: {key} is {one} in one and {other} "
                    "in the other. Take a fresh --output, or --overwrite."
                )
        if set(run.metrics) != set(first.metrics) or set(run.last) != set(first.last):
            raise CheckpointError(
                f"seeds {first.seed} and {run.seed} report different metrics. Take a fresh --output, or --overwrite."
            )
    seeds = [run.seed for run in runs]
    if len(set(seeds)) != len(seeds):
        raise CheckpointError(
            f"a seed occurs twice in {', '.join(map(str, seeds))}: their mean would count a run twice. Name each seed "
            "once."
        )

    def over(value: Callable[[MetricsRecord], float | None]) -> dict[str, Any]:
        return spread([value(run) for run in runs])

    content = {
        "schema_version": SCHEMA_VERSION,
        "task": first.task,
        "model": first.model,
        "method": first.method,
        "selection": first.selection,
        "seeds": seeds,
        "metrics": {
            name: {
                "best": spread([run.metrics[name] for run in runs]),
                "last": spread([run.last.get(name) for run in runs]),
            }
            for name in first.metrics
        },
        "best_epochs": [run.best_epoch for run in runs],
        "budget": {
            "live_components": over(lambda run: run.budget.live_components),
            "adapter_parameters_final": over(lambda run: run.budget.adapter_parameters_final),
        },
        "timing": {
            "train_seconds": over(lambda run: run.timing.train_seconds),
            "peak_memory_bytes": over(lambda run: run.timing.peak_memory_bytes),
        },
    }
    return written(SummaryRecord, content)


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """``mean``, ``sd`` (sample standard deviation, n - 1) and ``values``; None where undefined."""
    known = [float(value) for value in values if value is not None and isfinite(value)]
    defined = bool(known) and len(known) == len(values)
    return {
        "mean": mean(known) if defined else None,
        "sd": stdev(known) if defined and len(known) > 1 else None,
        "values": list(values),
    }
