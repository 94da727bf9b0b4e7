"""Many courses side by side: which runs are made when, and what happens when one of them ends badly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dora_cli.compare.cells import Cell
from dora_cli.compare.courses import CellResult, Course
from dora_cli.compare.jobs import Ended, Job, Pool, found
from dora_cli.compare.scores import Score, read_score
from dora_cli.errors import DoraError, ExperimentError, StoppedError


class Progress(Protocol):
    """Told how far the whole is."""

    def planned(self, total_runs: int, note: str) -> None:
        """Before the first run."""

    def stage(self, cell_name: str, what: str) -> None:
        """A cell begins to do something else."""

    def started(self, run_name: str) -> None:
        """A run begins."""

    def finished(self, run_name: str, outcome: str, score: float | None, seconds: float) -> None:
        """A run has ended."""

    def kept(self, runs: int) -> None:
        """So many runs were found finished."""

    def total(self, runs: int) -> None:
        """There will be as many runs, as far as is known now."""

    def note(self, text: str) -> None:
        """What a reader should know."""

    def close(self) -> None:
        """Nothing more is told."""


@dataclass
class _Going:
    """A course on its way.

    Attributes:
        batch: what it waits for.
        scores: those that are there, by run.
        runs: how many it has wanted so far.
    """

    cell: Cell
    course: Course
    batch: Sequence[Job] = ()
    scores: dict[str, Score] = field(default_factory=dict)
    runs: int = 0


class Conductor:
    """Makes the runs that courses want, as many at once as the pool takes, in the order of the cells.

    Args:
        cells: in an order in which none waits for a later one.
        begin: the course of a cell, given the results on the same task that are there.
        pool: where runs are made.
        progress: told what happens.
        expected: how many runs a cell will want, before it is known.
        how_to_resume: said when a signal or an error ends the experiment.
        cell_done: told when `results` has grown.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        begin: Callable[[Cell, Mapping[str, CellResult]], Course],
        pool: Pool,
        progress: Progress,
        *,
        expected: Callable[[Cell], int],
        how_to_resume: str,
        cell_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.results: dict[str, CellResult] = {}
        """By the cell's name; also those that are there when an error ends the experiment."""
        self._waiting = list(cells)
        self._begin, self._pool, self._progress, self._expected = begin, pool, progress, expected
        self._how_to_resume, self._cell_done = how_to_resume, cell_done
        self._going: dict[str, _Going] = {}
        self._queue: deque[tuple[str, Job]] = deque()
        self._running: dict[str, str] = {}
        self._found = 0

    def run(self) -> Mapping[str, CellResult]:
        """To the end; results by the cell's name.

        Raises:
            StoppedError: by a signal, once the runs under way are saved.
            DoraError: a run failed; those under way are finished first.
        """
        failure: DoraError | None = None
        while True:
            if failure is None:
                try:
                    self._start_ready()
                except DoraError as error:
                    failure = error
            if failure is None:
                self._submit()
            if not self._running:
                break
            for job, ended in self._pool.wait():
                bad = self._end(job, ended)
                failure = failure or bad
        if failure is not None:
            raise failure
        assert not self._waiting, "no cell waits for a later one"
        assert not self._going
        return self.results

    # -- courses -------------------------------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        """Begins every course whose needs are there; what ends at once, since its runs are finished, may allow others.

        Courses are sent what they wait for as soon as it is there.
        """
        moved = True
        while moved:
            moved = False
            for cell in list(self._waiting):
                results = self._of_task(cell)
                needs = (cell.variant.ranks_of, cell.variant.sized_as)
                if all(need is None or need.name in results for need in needs):
                    self._waiting.remove(cell)
                    going = self._going[cell.name] = _Going(cell, self._begin(cell, results))
                    self._progress.stage(cell.name, "begins")
                    self._advance(going, None)
                    moved = True
            for going in list(self._going.values()):
                if all(job.name in going.scores for job in going.batch):
                    self._advance(going, [going.scores[job.name] for job in going.batch])
                    moved = True
        if self._found:
            self._progress.kept(self._found)
            self._found = 0
        self._progress.total(self._total())

    def _of_task(self, cell: Cell) -> dict[str, CellResult]:
        return {
            result.cell.variant.name: result
            for result in self.results.values()
            if result.cell.task.name == cell.task.name
        }

    def _advance(self, going: _Going, scores: Sequence[Score] | None) -> None:
        """Sends a course its scores, and takes the runs that it wants next."""
        try:
            going.batch = next(going.course) if scores is None else going.course.send(scores)
        except StopIteration as end:
            self.results[going.cell.name] = end.value
            del self._going[going.cell.name]
            self._progress.stage(going.cell.name, "is done")
            self._cell_done()
            return
        going.runs += len(going.batch)
        going.scores = {job.name: read_score(job, going.cell) for job in going.batch if found(job) is not None}
        self._queue.extend((going.cell.name, job) for job in going.batch if job.name not in going.scores)
        self._found += len(going.scores)

    def _total(self) -> int:
        going = sum(max(going.runs, self._expected(going.cell)) for going in self._going.values())
        done = sum(runs_of(result) for result in self.results.values())
        return done + going + sum(map(self._expected, self._waiting))

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        while self._queue and self._pool.free > 0:
            cell, job = self._queue.popleft()
            self._running[job.name] = cell
            self._progress.started(job.name)
            self._pool.submit(job)

    def _end(self, job: Job, ended: Ended) -> DoraError | None:
        """What a run that has ended means: its score, or why the experiment cannot go on."""
        cell = self._running.pop(job.name)
        if ended.outcome in ("finished", "diverged"):
            going = self._going[cell]
            score = going.scores[job.name] = read_score(job, going.cell)
            self._progress.finished(job.name, score.outcome, score.value, ended.seconds)
            return None
        if ended.outcome == "stopped":
            return StoppedError(
                f"stopped; the runs under way are saved, finished ones are kept: {self._how_to_resume}",
                ended.exit_code - 128,
            )
        return ExperimentError(
            f"the run {job.name} failed, so the experiment stops: {ended.message}\nfinished runs are kept: "
            f"{self._how_to_resume}"
        )


def runs_of(result: CellResult) -> int:
    """How many runs a cell took."""
    tried = () if result.choice is None else result.choice.tried
    return len(result.scores) + sum(len(value.scores) for value in tried)
