"""How one cell goes on: what is tried on held-out data, what is chosen, and the runs that measure it.

A course is a generator that yields the runs it wants next and is sent their scores; so many courses go on side by side,
and one that is begun again over the same run folders takes the same turns.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dora_cli.compare.cells import Cell
from dora_cli.compare.experiment import Experiment, Tuning
from dora_cli.compare.jobs import Job
from dora_cli.compare.scores import Score, with_constants
from dora_cli.compare.sizes import alike, stored
from dora_cli.compare.statistics import (
    RatePoint,
    choose_rate,
    grow_grid,
    lagging_neighbours,
    rate_grid,
    surviving_rates,
)
from dora_cli.compare.variants import override
from dora_cli.errors import DivergedError

Course = Generator[Sequence[Job], Sequence[Score], "CellResult"]
"""Yields runs, is sent their scores in the same order, and returns what the cell came to."""


@dataclass(frozen=True)
class Tried:
    """One value of the tuned key."""

    value: float
    scores: tuple[Score, ...]
    added: bool


@dataclass(frozen=True)
class Choice:
    """What the tuning came to; `exhausted` where the best value lies at an edge and the grid may not grow."""

    tried: tuple[Tried, ...]
    value: float
    exhausted: bool

    def points(self, *, lower_is_better: bool) -> list[RatePoint]:
        """For the statistics; see `points_of`."""
        return points_of({tried.value: tried.scores for tried in self.tried}, lower_is_better=lower_is_better)

    def scores_at(self, value: float) -> tuple[Score, ...]:
        """Those of one value."""
        return next(tried.scores for tried in self.tried if tried.value == value)


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
    size = _size(cell, output, done)
    choice = None
    if experiment.tune is not None:
        choice = yield from _tune(cell, experiment.tune, output, size, done)
    key, value = (None, None) if choice is None else (_key(experiment), choice.value)
    jobs = [
        cell.measuring_job(output, key, value, seed, [*size, *_ranks(cell, done, seed, tuning=False)])
        for seed in experiment.seeds
    ]
    scores = yield jobs
    return CellResult(cell, choice, tuple(scores))


def _key(experiment: Experiment) -> str:
    assert experiment.tune is not None
    return experiment.tune.key


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


# Tuning ---------------------------------------------------------------------------------------------------------------


def _tune(
    cell: Cell, tune: Tuning, output: Path, size: Sequence[str], done: Mapping[str, CellResult]
) -> Generator[Sequence[Job], Sequence[Score], Choice]:
    """Tries the values of the grid, the promising ones with more seeds, until the best one is inside of it."""
    lower, refused = cell.task.lower_is_better, False
    grid, added = rate_grid(tune.grid.low, tune.grid.high, tune.grid.points), list[float]()
    tried: dict[float, list[Score]] = {value: [] for value in grid}

    def run(wanted: Mapping[float, Sequence[int]]) -> Generator[Sequence[Job], Sequence[Score], None]:
        """More runs, `wanted` by value and seed."""
        places = [(value, seed) for value, seeds in wanted.items() for seed in seeds]
        jobs = [
            cell.tuning_job(
                output, tune.key, value, seed, tune.held_out, [*size, *_ranks(cell, done, seed, tuning=True)]
            )
            for value, seed in places
        ]
        scores = yield jobs
        for (value, _), score in zip(places, scores, strict=True):
            tried[value].append(score)

    def lost() -> bool:
        return all(score.value is None for scores in tried.values() for score in scores)

    def rescue() -> Generator[Sequence[Job], Sequence[Score], None]:
        """Lower values, where every run has diverged so far."""
        while lost() and len(added) < tune.extend and cell.takes(tune.key, below := _below(grid, min(tried))):
            added.append(below)
            tried[below] = []
            yield from run({below: tune.seed_list})
        if lost():
            raise DivergedError(
                f"{cell.name}: no run has a score, with {tune.key} from {min(tried):g} to {max(tried):g}; they "
                "diverged, or the metric is undefined; lower the grid of tune"
            )

    def missing(value: float) -> list[int]:
        return [seed for seed in tune.seed_list if seed not in {score.seed for score in tried[value]}]

    if tune.keep == "all":
        yield from run(dict.fromkeys(grid, tune.seed_list))
        yield from rescue()
    else:
        kept: Sequence[float] = grid
        for seed in tune.seed_list:
            yield from run({value: [seed] for value in kept if seed in missing(value)})
            yield from rescue()
            kept = surviving_rates(points_of(tried, lower_is_better=lower), lower_is_better=lower)
    while True:
        points = points_of(tried, lower_is_better=lower)
        lagging = lagging_neighbours(points, lower_is_better=lower)
        growth = grow_grid(points, grown=len(added), most=tune.extend, lower_is_better=lower)
        more = lagging or growth.rates
        if not lagging and more and not cell.takes(tune.key, more[0]):
            more, refused = (), True  # a share of 1, say, beyond which there is none
        if not more:
            break
        for value in more:
            if value not in tried:
                added.append(value)
                tried[value] = []
        yield from run({value: missing(value) for value in more})
    chosen = choose_rate(points, lower_is_better=lower)
    known = [score for scores in tried.values() for score in scores]
    found = tuple(
        Tried(value, tuple(with_constants(tried[value], known, lower_is_better=lower)), value in added)
        for value in sorted(tried)
    )
    return Choice(found, chosen.rate, growth.exhausted or refused)


def _below(grid: Sequence[float], lowest: float) -> float:
    """The next value under `lowest`, by the factor of the grid."""
    return float(f"{lowest * grid[0] / grid[1]:.6g}")


def points_of(tried: Mapping[float, Sequence[Score]], *, lower_is_better: bool) -> list[RatePoint]:
    """Every value with its scores, for the statistics; those of diverged runs by `with_constants`. At least one run has
    a score.
    """
    known = [score for scores in tried.values() for score in scores]
    points = []
    for value, scores in sorted(tried.items()):
        if scores:
            whole = with_constants(scores, known, lower_is_better=lower_is_better)
            numbers = tuple(score.value for score in whole if score.value is not None)
            assert len(numbers) == len(scores), "one of them has a score"
            points.append(RatePoint(value, numbers, sum(score.collapsed for score in scores)))
    return points
