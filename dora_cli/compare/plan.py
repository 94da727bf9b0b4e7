"""What an experiment will do, before it does it: its runs, their number, and their time from a few trial steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dora_cli.assembly.warm import Warm
from dora_cli.compare.cells import Cell, inherited, make_cells
from dora_cli.compare.experiment import Experiment, load_experiment
from dora_cli.compare.trials import Trials
from dora_cli.compare.variants import Design, design


@dataclass(frozen=True)
class Plan:
    """An experiment that is ready to be made.

    Attributes:
        file: of the experiment.
        design: who is compared with whom.
        cells: every variant on every task, in an order in which none waits for a later one.
    """

    file: Path
    experiment: Experiment
    design: Design
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, file: Path, warm: Warm | None = None) -> Plan:
        """The plan of the experiment in `file`, checked as far as anything can be before a run.

        Args:
            warm: gets what its runs have in common, for whoever makes some of them in this process.

        Raises:
            ExperimentError: with every problem of the file and of the recipes that it makes.
            DoraError: data or model cannot be used.
        """
        experiment = load_experiment(file)
        plan = design(experiment)
        cells = tuple(make_cells(experiment, plan, warm or Warm()))
        notes = (*plan.notes, *inherited(experiment, plan))
        return cls(file, experiment, replace(plan, notes=notes), cells)

    def tuning_runs(self) -> int:
        """Runs that one cell's tuning takes, unless its grid grows: the better half of the values gets another seed,
        and with them the best one's neighbours.
        """
        tune = self.experiment.tune
        if tune is None:
            return 0
        if tune.keep == "all":
            return tune.grid.points * tune.seeds
        runs, values = 0, tune.grid.points
        for _ in range(tune.seeds):
            runs += values
            values = min(values, max(math.ceil(values / 2), 3))
        return runs

    def runs_of(self, cell: Cell) -> int:
        """Runs that the cell takes, as far as is known before it is begun."""
        return self.tuning_runs() + len(self.experiment.seeds)

    @property
    def runs(self) -> int:
        """Runs of the whole, likewise."""
        return sum(map(self.runs_of, self.cells))


@dataclass(frozen=True)
class Forecast:
    """How long runs take on this machine, one at a time.

    Attributes:
        seconds: of a measured run by the cell's name.
        total: of all runs of the experiment.
        least: seconds until the last run that must wait for another has ended, however many are made at once.
        made_of: what was timed for it, in words.
    """

    seconds: Mapping[str, float]
    total: float
    least: float
    made_of: str


def forecast(
    plan: Plan, train: Callable[..., object], note: Callable[[str], None] = lambda _: None, warm: Warm | None = None
) -> Forecast:
    """Begins a run of each entry on each task, in a folder that is removed again, and times a few steps of the baseline
    on each task and of each other entry on the task with the shortest steps. What an entry's step takes there beside
    the baseline's it is taken to take on the other tasks too, and so for the evaluation.

    Args:
        train: `dora_cli.training.run.train`.
        note: told which trial is made.
        warm: what the plan's checks have left.
    """
    trials = Trials(train, note, warm or Warm())
    firsts = _first_cells(plan)
    base = plan.experiment.baseline
    parts = {(task, entry): trials.time(cell) for (task, entry), cell in firsts.items() if entry == base}
    timed_on = min((task for task, _ in parts), key=lambda task: parts[task, base].step)
    for (task, entry), cell in firsts.items():
        if task == timed_on and entry != base:
            parts[task, entry] = trials.time(cell)
    for (task, entry), cell in firsts.items():
        if (task, entry) not in parts:
            once = trials.begin(cell)
            parts[task, entry] = parts[task, base].like(parts[timed_on, entry], parts[timed_on, base], once=once)
    seconds = {
        cell.name: parts[cell.task.name, cell.variant.entry].whole(cell.ahead.length.total_steps) for cell in plan.cells
    }
    total = sum(seconds[cell.name] * plan.runs_of(cell) for cell in plan.cells)
    stages = len(plan.experiment.tune.seed_list) + 1 if plan.experiment.tune is not None else 1
    least = max(_chain(cell, plan.cells, seconds) for cell in plan.cells) * stages
    tasks = {task for task, _ in firsts}
    said = "every method" if len(tasks) == 1 else f"{base} on every task and of every method on {timed_on}"
    made_of = f"{trials.counts} of {said}" + ("" if len(tasks) == 1 else "; the others in proportion")
    return Forecast(seconds, total, least, made_of)


def _first_cells(plan: Plan) -> dict[tuple[str, str], Cell]:
    """The first cell of each entry on each task, whose time stands for that of its variants there."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in plan.cells:
        found.setdefault((cell.task.name, cell.variant.entry), cell)
    return found


def _chain(cell: Cell, cells: Sequence[Cell], seconds: Mapping[str, float]) -> float:
    """One run of the cell after one of each that it waits for."""
    before = 0.0
    for needed in (cell.variant.ranks_of, cell.variant.sized_as):
        if needed is not None:
            other = next(
                found for found in cells if found.variant.name == needed.name and found.task.name == cell.task.name
            )
            before = max(before, _chain(other, cells, seconds))
    return before + seconds[cell.name]
