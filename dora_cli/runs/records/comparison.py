"""comparison.json: what an experiment of many runs came to.

Everything a report shows of an experiment stands here; run folders are named relative to the folder of the record.
Scores are those of the metric that the task's recipe selects by, as measured; differences are turned so that above 0 is
better, whichever way the metric goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dora_cli.runs.records.fields import Count, Metrics, Name, Place, Record, Seconds, Words, validated
from dora_cli.wording import last_names, spelled

Value = Words | int | float | bool | None
Outcome = Literal["finished", "diverged", "missing"]
"""How a run ended; a diverged one counts, with the score of a model that says the same of every example where the task
knows it. A missing one was never made, or is of an experiment that was stopped."""
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
"""Low, high: a list, since that is what JSON has."""
Verdict = Literal["better", "worse", "equivalent", "non-inferior", "undecided", "withheld"]


class ComparedTaskRecord(Record):
    """A recipe that everything is compared on. `name` is the experiment's own; no two tasks share one.

    `majority` is what a model that says the same of every scored example scores; None where that means
    nothing.
    """

    name: Name
    recipe: Place
    task: Name
    model: Place
    metric: Name
    lower_is_better: bool
    majority: float | None


class ComparedMethodRecord(Record):
    """One entry of the experiment's methods, at one value of each key that it sweeps.

    Attributes:
        name: no two share one; made of `entry` and what is swept.
        entry: its name in the experiment.
        method: the recipe's.
        swept: the swept keys and their values here.
        matched_to: the method whose stored size this one was given; None where its size is its own.
        baseline: whether others are compared with it.
    """

    name: Name
    entry: Name
    method: Name
    swept: Annotated[dict[Name, Value], Field(max_length=20)]
    matched_to: Name | None
    baseline: bool


class TriedRecord(Record):
    """One value of the tuned key for one method on one task, scored on the held-out part of the training split.

    Attributes:
        seeds: those it was given; fewer than the others where halving dropped it.
        scores: one a seed; None where the run diverged and the task knows no score for that.
        collapsed: runs that said the same of every example, or diverged.
        diverged: those of them that diverged; None in older records.
        runs: their folders.
        added: whether the grid grew by it, because the best was at an edge.
    """

    value: float
    seeds: list[Count]
    scores: list[float | None]
    collapsed: Count
    diverged: Count | None = None
    runs: list[Place]
    added: bool


class TunedRecord(Record):
    """The choice of the tuned key for one method on one task.

    Attributes:
        tried: ascending in value.
        chosen: the value that everything is measured with.
        interior: whether a tried value lies on either side of it.
        band: the lowest and highest value around it whose mean is within one standard error of the best; None where no
            error is known.
        collapsed: share of all tried runs that collapsed.
        expected_best: the expected held-out score of the best of 1, 2, ... values drawn from the grid.
    """

    tried: list[TriedRecord]
    chosen: float
    interior: bool
    band: Ends | None
    collapsed: float
    expected_best: list[float | None]


class MeasuredRunRecord(Record):
    """One run on the whole training split, scored once, at its end, on the dev split; or as `measured_share` says.

    Attributes:
        score: of the task's metric; of a diverged run see `Outcome`.
        best_on_dev: the best epoch's score, which the dev split has selected; only where epochs were evaluated, and
            never tested.
        stored_parameters: what the finished adapter stores beside the head.
        most_trained: most parameters that trained at once, the head included.
        seconds: of training, evaluation and saving; with several runs at once on a device, of that.
        peak_memory_bytes: see metrics.json.
        collapsed: whether it said the same of every example, or diverged.
    """

    seed: Count
    outcome: Outcome
    folder: Place | None
    score: float | None
    metrics: Metrics
    best_on_dev: float | None
    stored_parameters: Count | None
    most_trained: Count | None
    adapter_bytes: Count | None
    seconds: Seconds | None
    peak_memory_bytes: Count | None
    collapsed: bool


class CellRecord(Record):
    """One method on one task. `tuned` is None where the experiment tunes nothing."""

    task: Name
    method: Name
    tuned: TunedRecord | None
    runs: list[MeasuredRunRecord]


class TestedRecord(Record):
    """A mean paired difference to the baseline, above 0 where the method is better.

    Attributes:
        seeds: how many pairs there are.
        low: the lower end of the 95 % interval; None, like whatever cannot be computed, where there are too few pairs
            or all differences are equal.
        p: two-sided, of no difference, by paired t.
    """

    seeds: Count
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None


class TaskDifferenceRecord(TestedRecord):
    """The same on one task alone, and at one value of each pooled key; secondary.

    Attributes:
        pooled: the pooled keys with their values here; empty where none is pooled.
        p_holm: `p`, adjusted over all tasks and pooled values of this comparison.
    """

    task: Name
    pooled: Annotated[dict[Name, Value], Field(max_length=20)] = Field(default_factory=dict)
    p_holm: float | None

    @property
    def name(self) -> str:
        """Such as ``glue-rte, rank=2``; see `place_name`."""
        return place_name(self.task, self.pooled)


class PairRecord(Record):
    """Two that were run beside each other: names of `ComparedMethodRecord`."""

    method: Name
    baseline: Name


class ComparisonOfRecord(TestedRecord):
    """A method beside its baseline over all tasks and pooled values: the mean over them of the mean paired difference
    over seeds.

    Attributes:
        method: what is compared; without the pooled values, where swept keys are pooled.
        baseline: with what, likewise.
        pairs: what was run for it: one pair, or one for each pooled value; empty in older records.
        differences: one a seed, averaged over the tasks and pooled values.
        of_seeds: their seeds.
        dropped: seeds that lack a run on one side.
        p_holm: `p`, adjusted over all comparisons of the experiment.
        p_equivalent: of TOST with the margin, adjusted likewise.
        p_non_inferior: one-sided, with the margin, adjusted likewise.
        margin: in the metric's units; None where there is none.
        detectable: the smallest difference that is found with 80 % power, in the metric's units.
        power_equivalent: the chance to show equivalence within the margin if nothing differs.
        seeds_needed: pairs it takes to reach what is asked; None where the present ones do, or where none is known.
        bootstrap: the 95 % interval by bootstrap-t.
        size_ratio: stored parameters of the method over the baseline's, means over runs, tasks and pooled values.
        by_task: the same on each task, and at each pooled value there.
        notes: what a reader should know, a sentence each.
    """

    method: Name
    baseline: Name
    pairs: list[PairRecord] = Field(default_factory=list)
    differences: list[float]
    of_seeds: list[Count]
    dropped: list[Count]
    p_holm: float | None
    p_equivalent: float | None
    p_non_inferior: float | None
    margin: float | None
    detectable: float | None
    power_equivalent: float | None
    seeds_needed: Count | None
    bootstrap: Ends | None
    verdict: Verdict
    size_ratio: float | None
    by_task: list[TaskDifferenceRecord]
    notes: list[Name]


class TuningPlanRecord(Record):
    """How the tuned key was chosen.

    `held_out` is the share of the training split, `held_out_by` how that is parted: None in older records, when it was
    by rows.
    """

    key: Name
    grid: list[float]
    held_out: float
    held_out_by: Literal["text", "rows"] | None = None
    seeds: list[Count]
    keep: Literal["halving", "all"]


class PowerRecord(Record):
    """What the seeds can show, known before the tuning, in standard deviations of the paired difference.

    `detectable` is found with 80 % power at the level that Holm's correction may ask for.
    """

    seeds: Count
    comparisons: Count
    detectable: float | None


class ComparisonRecord(Record):
    """comparison.json.

    `measured_share` is the share of the training split that measured runs are scored on; None where that is the dev
    split. `pool` holds the swept keys whose values every comparison is averaged over.
    """

    FILE: ClassVar[str] = "comparison.json"

    schema_version: Literal[1]
    experiment: Place
    baseline: Name
    pool: Annotated[list[Name], Field(max_length=20)] = Field(default_factory=list)
    match: Literal["stored-parameters", "none"]
    margin: float | None
    margin_source: Literal["pilot", "given", "none"]
    seeds: list[Count]
    tuning: TuningPlanRecord | None
    measured_share: float | None = None
    power: PowerRecord
    tasks: list[ComparedTaskRecord]
    methods: list[ComparedMethodRecord]
    cells: list[CellRecord]
    comparisons: list[ComparisonOfRecord]
    complete: bool
    notes: list[Annotated[str, Field(max_length=2000)]]


def place_name(task: str, pooled: Mapping[str, Value]) -> str:
    """Where a part of a comparison was made: the task, and the pooled keys with their values, by their last names."""
    return ", ".join([task, *(f"{name}={spelled(pooled[key])}" for key, name in last_names(pooled).items())])


def validate_comparison(record: Any, source: Path | str = "comparison.json") -> ComparisonRecord:
    """The checked record. Raises CheckpointError naming `source`, the key, the value and what was expected."""
    return validated(ComparisonRecord, record, source)
