"""What an experiment will do, before it does it: its runs, their number, and their time from a few trial steps."""

from __future__ import annotations

import math
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dora_cli.compare.cells import Cell, inherited, make_cells
from dora_cli.compare.experiment import Experiment, load_experiment
from dora_cli.compare.variants import Design, design, override
from dora_cli.errors import BudgetError, StoppedError
from dora_cli.recipe import Recipe, dump_recipe, parse_recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.wording import plural

TRIAL_STEPS = 12
"""Steps of a trial run; the first ones compile and warm up."""


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
    def of(cls, file: Path) -> Plan:
        """The plan of the experiment in `file`, checked as far as anything can be before a run.

        Raises:
            ExperimentError: with every problem of the file and of the recipes that it makes.
            DoraError: data or model cannot be used.
        """
        experiment = load_experiment(file)
        plan = design(experiment)
        cells = tuple(make_cells(experiment, plan))
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
    """

    seconds: Mapping[str, float]
    total: float
    least: float


def forecast(plan: Plan, train: Callable[..., object], note: Callable[[str], None] = lambda _: None) -> Forecast:
    """Times a few steps of each entry on each task, in a folder that is removed again.

    Args:
        train: `dora_cli.training.run.train`.
        note: told which trial is made.
    """
    seconds: dict[str, float] = {}
    by_kind: dict[tuple[str, str], float] = {}
    _trial(plan.cells[0], train, lambda _: None)  # loads libraries, which no worker does twice
    for cell in plan.cells:
        kind = cell.task.name, cell.variant.entry
        if kind not in by_kind:
            by_kind[kind] = _trial(cell, train, note)
        seconds[cell.name] = by_kind[kind]
    total = sum(seconds[cell.name] * plan.runs_of(cell) for cell in plan.cells)
    stages = len(plan.experiment.tune.seed_list) + 1 if plan.experiment.tune is not None else 1
    least = max(_chain(cell, plan.cells, seconds) for cell in plan.cells) * stages
    return Forecast(seconds, total, least)


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


def _trial(cell: Cell, train: Callable[..., object], note: Callable[[str], None]) -> float:
    """Seconds of a whole run of the cell, from its trial: what is done once, and a step as often as there are steps.

    A trial is twice as long where it has too few steps for the phases of the method.
    """
    whole_run = cell.ahead.length.total_steps
    steps = min(TRIAL_STEPS, whole_run)
    while True:
        note(f"{cell.name}: {plural(steps, 'trial step')}")
        try:
            once, in_steps = _timed(cell, steps, train)
        except BudgetError:
            if steps == whole_run:
                raise
            steps = min(2 * steps, whole_run)
        else:
            return once + in_steps * whole_run / steps


def _timed(cell: Cell, steps: int, train: Callable[..., object]) -> tuple[float, float]:
    """Seconds of a short run outside its steps, and in them."""
    recipe = _short(cell.recipe, steps, () if cell.measured_share is None else cell.in_tuning)
    with tempfile.TemporaryDirectory(prefix="dora-trial-") as folder:
        began = time.perf_counter()
        try:
            train(recipe, Path(folder) / "run")
        except StoppedError as stop:  # which would say how to go on with it
            number = stop.exit_code - 128
            raise StoppedError(f"stopped by {signal.Signals(number).name}; nothing is kept of trials", number) from None
        whole = time.perf_counter() - began
        in_steps = RunRecords(Path(folder) / "run").read_metrics()["timing"]["train_seconds"]
    return whole - in_steps, in_steps


def _short(recipe: Recipe, steps: int, more: Sequence[str] = ()) -> Recipe:
    changes = [override("train.max_steps", steps), override("train.log_every", steps), "eval.every=end", *more]
    changes.append("train.lr_warmup_steps=null")  # which may be more than all steps of a trial
    if recipe.federated is not None:
        changes += ["federated.rounds=1", override("federated.local_steps", steps)]
    if hasattr(recipe.method, "prune_interval"):
        changes.append("method.prune_interval=1")
    return parse_recipe(dump_recipe(recipe), overrides=changes)
