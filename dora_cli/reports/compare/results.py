"""What an experiment came to, by task and method: means and spreads of the runs in comparison.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dora_cli.runs.records.comparison import (
    CellRecord,
    ComparedMethodRecord,
    ComparedTaskRecord,
    ComparisonOfRecord,
    ComparisonRecord,
    MeasuredRunRecord,
    TriedRecord,
    validate_comparison,
)
from dora_cli.runs.records.summary import spread
from dora_cli.runs.run_folder import RunRecords


@dataclass(frozen=True)
class Spread:
    """A number over runs, of which only `known` of `of` have one; `sd` is the sample standard deviation (n - 1)."""

    mean: float | None
    sd: float | None
    known: int
    of: int

    @staticmethod
    def over(values: Iterable[float | None]) -> Spread:
        every = list(values)
        known = [value for value in every if value is not None]
        found = spread(known) if known else {"mean": None, "sd": None}
        return Spread(found["mean"], found["sd"], len(known), len(every))


@dataclass(frozen=True)
class Lost:
    """How many of so many `runs` said the same of every example or diverged, and how many `diverged`; None where an
    older record does not say.
    """

    runs: int
    collapsed: int
    diverged: int | None

    @staticmethod
    def of(parts: Iterable[Lost]) -> Lost:
        """All of them together."""
        every = list(parts)
        diverged = [part.diverged for part in every if part.diverged is not None]
        known = sum(diverged) if len(diverged) == len(every) else None
        return Lost(sum(part.runs for part in every), sum(part.collapsed for part in every), known)

    def __str__(self) -> str:
        """Such as ``3 of 10, 1 diverged``."""
        return f"{self.collapsed} of {self.runs}" + (f", {self.diverged} diverged" if self.diverged else "")


def lost_of(tried: TriedRecord) -> Lost:
    """Those of one tried value."""
    return Lost(len(tried.scores), tried.collapsed, tried.diverged)


@dataclass(frozen=True)
class Cell:
    """One method on one task; `record` is None where the experiment was stopped before it came to it."""

    task: ComparedTaskRecord
    method: ComparedMethodRecord
    record: CellRecord | None

    @property
    def runs(self) -> Sequence[MeasuredRunRecord]:
        return [] if self.record is None else self.record.runs

    def over(self, value: Callable[[MeasuredRunRecord], float | None]) -> Spread:
        """A number over the runs that measure."""
        return Spread.over(value(run) for run in self.runs)

    @cached_property
    def score(self) -> Spread:
        return self.over(lambda run: run.score)

    @property
    def metrics(self) -> dict[str, Spread]:
        """Every metric of its runs but the one that scores."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics if name != self.task.metric)
        return {name: self.over(lambda run, name=name: run.metrics.get(name)) for name in names}  # type: ignore[misc]

    @property
    def held_out(self) -> Spread | None:
        """Scores of the chosen value on the held-out part of the training split; None where nothing was tuned."""
        if self.record is None or self.record.tuned is None:
            return None
        tuned = self.record.tuned
        return next((Spread.over(tried.scores) for tried in tuned.tried if tried.value == tuned.chosen), None)

    @property
    def measured(self) -> Lost:
        """What was lost of the runs that measure, as far as they were made."""
        runs = [run for run in self.runs if run.outcome != "missing"]
        return Lost(len(runs), sum(run.collapsed for run in runs), sum(run.outcome == "diverged" for run in runs))

    @property
    def tuned(self) -> Lost:
        """What was lost of the runs that served to choose a value."""
        return Lost.of(
            [] if self.record is None or self.record.tuned is None else map(lost_of, self.record.tuned.tried)
        )

    @property
    def flat(self) -> bool:
        """Whether its mean is no better than saying the same of every example."""
        mean, same = self.score.mean, self.task.majority
        return mean is not None and same is not None and (mean >= same if self.task.lower_is_better else mean <= same)


def mean_score(tried: TriedRecord) -> float | None:
    """The mean of one tried value; None where one of its runs has no score."""
    known = [score for score in tried.scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(tried.scores) else None


@dataclass(frozen=True)
class Row:
    """A method in a table of differences; `comparison` is None of a baseline, and of all where keys are pooled, since
    what is compared is then a mean over several methods. Several rows of a method name theirs.
    """

    name: str
    method: ComparedMethodRecord
    comparison: ComparisonOfRecord | None


@dataclass(frozen=True)
class Results:
    """comparison.json, and what it says of each task and method."""

    record: ComparisonRecord

    @staticmethod
    def of(record: Mapping[str, Any]) -> Results:
        """From the content of comparison.json. Raises CheckpointError."""
        return Results(validate_comparison(record))

    @staticmethod
    def read(folder: Path) -> Results:
        """From an experiment's folder. Raises CheckpointError."""
        return Results.of(RunRecords(folder).read_comparison())

    @property
    def tasks(self) -> Sequence[ComparedTaskRecord]:
        return self.record.tasks

    @property
    def methods(self) -> Sequence[ComparedMethodRecord]:
        return self.record.methods

    @cached_property
    def _cells(self) -> Mapping[tuple[str, str], CellRecord]:
        return {(cell.task, cell.method): cell for cell in self.record.cells}

    def cell(self, task: ComparedTaskRecord, method: ComparedMethodRecord) -> Cell:
        return Cell(task, method, self._cells.get((task.name, method.name)))

    def of_method(self, method: ComparedMethodRecord) -> list[Cell]:
        """Its cells, in the order of the tasks."""
        return [self.cell(task, method) for task in self.tasks]

    def over(self, method: ComparedMethodRecord, value: Callable[[MeasuredRunRecord], float | None]) -> float | None:
        """The mean over the tasks of a method's means over runs, of those tasks that have one."""
        means = [mean for cell in self.of_method(method) if (mean := cell.over(value).mean) is not None]
        return sum(means) / len(means) if means else None

    @property
    def rows(self) -> list[Row]:
        """Rows of a table of differences: one for each comparison, and one for each method that is in none."""
        found = []
        for method in self.methods:
            mine = [] if self.record.pool else self.comparisons_of(method.name)
            found += [Row(self.name_of(comparison), method, comparison) for comparison in mine]
            if not mine:
                found.append(Row(method.name, method, None))
        return found

    def comparisons_of(self, name: str) -> list[ComparisonOfRecord]:
        """Those of one method, by its name in comparisons."""
        return [comparison for comparison in self.record.comparisons if comparison.method == name]

    def name_of(self, comparison: ComparisonOfRecord) -> str:
        """What a comparison is called in a table: its method, and its baseline where the method has several."""
        several = len(self.comparisons_of(comparison.method)) > 1
        return f"{comparison.method} beside {comparison.baseline}" if several else comparison.method

    @property
    def in_parts(self) -> bool:
        """Whether comparisons are of several tasks or pooled values, each of which is shown alone too."""
        return any(len(comparison.by_task) > 1 for comparison in self.record.comparisons)

    def size_ratios(self, row: Row) -> list[float]:
        """Stored parameters over those of the baseline; of what stands in a pooled comparison over each baseline's that
        it was run beside, of a baseline none.
        """
        if row.comparison is not None:
            return [] if row.comparison.size_ratio is None else [row.comparison.size_ratio]
        pairs = [pair for comparison in self.record.comparisons for pair in comparison.pairs]
        beside = {pair.baseline for pair in pairs if pair.method == row.method.name}
        mine, theirs = self._stored(row.method), [self._stored(other) for other in self.methods if other.name in beside]
        return [mine / other for other in theirs if mine is not None and other]

    def _stored(self, method: ComparedMethodRecord) -> float | None:
        return self.over(method, lambda run: run.stored_parameters)

    def task(self, name: str) -> ComparedTaskRecord | None:
        return next((task for task in self.tasks if task.name == name), None)

    @property
    def made(self) -> int:
        """Runs that measure and have ended, however."""
        return sum(run.outcome != "missing" for cell in self.record.cells for run in cell.runs)

    @property
    def tried(self) -> int:
        """Runs that served to choose a value."""
        tuned = (cell.tuned for cell in self.record.cells if cell.tuned is not None)
        return sum(len(one.scores) for each in tuned for one in each.tried)
