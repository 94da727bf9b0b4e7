"""How one cell goes on: what is tried on held-out data, what is chosen, and the runs that measure it.

A course is a generator that yields the runs it wants next and is sent their scores; so many courses go on side by side,
and one that is begun again over the same run folders takes the same turns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dora_cli.compare.cells import Cell
from dora_cli.compare.experiment import Experiment, Tuning
from dora_cli.compare.jobs import Job
from dora_cli.compare.scores import Score
from dora_cli.compare.sizes import alike, stored
from dora_cli.compare.tuning import Choice, tuned
from dora_cli.compare.variants import override
from dora_cli.errors import DivergedError

Course = Generator[Sequence[Job], Sequence[Score], "CellResult"]
"""Yields runs, is sent their scores in the same order, and returns what the cell came to."""


@dataclass(frozen=True)
class CellResult:
    """What one variant on one task came to; `choice` is None where nothing is tuned."""

    cell: Cell
    choice: Choice | None
    scores: tuple[Score, ...]

    def stored(self) -> float | None:
        """Parameters that its finished adapters store, in the mean; None where all runs diverged."""
        known = [score.stored for score in self.scores if score.stored is not None]
        return fmean(known) if known else None


def course(cell: Cell, experiment: Experiment, output: Path, done: Mapping[str, CellResult]) -> Course:
    """The course of one cell.

    Args:
        output: the experiment's folder.
        done: results of other cells on the same task, by variant; those that this one waits for are there.

    Raises:
        DivergedError: every value of the grid makes every run diverge, or so did all runs that it takes its size or its
            ranks from.
    """
    size, tune = _size(cell, output, done), experiment.tune
    choice = key = value = None
    if tune is not None:
        choice = yield from tuned(cell, tune, _trial(cell, tune, output, size, done))
        key, value = tune.key, choice.value
    jobs = [
        cell.measuring_job(output, key, value, seed, [*size, *_ranks(cell, done, seed, tuning=False)])
        for seed in experiment.seeds
    ]
    scores = yield jobs
    return CellResult(cell, choice, tuple(scores))


def _trial(
    cell: Cell, tune: Tuning, output: Path, size: Sequence[str], done: Mapping[str, CellResult]
) -> Callable[[float, int], Job]:
    """Makes the run that scores a value of the tuned key with a seed."""

    def job(value: float, seed: int) -> Job:
        changes = [*size, *_ranks(cell, done, seed, tuning=True)]
        return cell.tuning_job(output, tune.key, value, seed, tune.held_out, changes)

    return job


# What it takes from others --------------------------------------------------------------------------------------------


def _size(cell: Cell, output: Path, done: Mapping[str, CellResult]) -> list[str]:
    """The ranks that give the cell the size of another, as overrides.

    More seeds move the mean size of the other a little: runs that are there keep their ranks as long as these are of
    its size.
    """
    source = cell.variant.sized_as
    if source is None:
        return []
    result = done[source.name]
    target = result.stored() or (None if source.emerges else result.cell.planned)
    if not target:
        raise DivergedError(
            f"{cell.name}: it is to store as much as {source.name}, all of whose runs diverged; lower the values of "
            "the tuned key, or set match: none"
        )
    earlier = cell.earlier_ranks(output)
    component = max(cell.costs.values(), default=0)
    if earlier is not None and alike(stored(cell.costs, earlier), target, component):
        return [override("method.ranks", earlier)]
    return cell.sized(target)


def _ranks(cell: Cell, done: Mapping[str, CellResult], seed: int, *, tuning: bool) -> list[str]:
    """Whose final ranks a run takes, as overrides: those of the same seed, chosen and measured as it is itself; where
    that one diverged, those of the first seed that did not.
    """
    source = cell.variant.ranks_of
    if source is None:
        return []
    result = done[source.name]
    scores: Sequence[Score] = result.scores
    if tuning and result.choice is not None:
        scores = result.choice.scores_at(result.choice.value)
    found = rank_source(scores, seed)
    if found is None:
        raise DivergedError(
            f"{cell.name}: it takes its ranks from {source.name}, all of whose runs diverged; lower the values of the "
            "tuned key"
        )
    return cell.variant.rank_overrides(str(found.job.folder))


def rank_source(scores: Sequence[Score], seed: int) -> Score | None:
    """The run whose ranks one of `seed` takes; None where all diverged."""
    finished = [score for score in scores if score.record is not None]
    return next((score for score in finished if score.seed == seed), finished[0] if finished else None)
